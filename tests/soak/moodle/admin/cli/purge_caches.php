<?php
define('CLI_SCRIPT', true);
require __DIR__ . '/../../config.php';
set_setting('cacherev', (string) time());
end_with('Caches purged', 0);
