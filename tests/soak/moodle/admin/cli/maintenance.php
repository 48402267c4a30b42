<?php
define('CLI_SCRIPT', true);
require __DIR__ . '/../../config.php';
$page = "$CFG->dataroot/climaintenance.html";
if (has('enable')) {
    file_put_contents($page, 'maintenance');
    end_with('Maintenance mode enabled', 0);
}
if (has('disable')) {
    file_exists($page) && unlink($page);
    end_with('Maintenance mode disabled', 0);
}
end_with('Status: ' . (file_exists($page) ? 'enabled' : 'disabled'), 0);
