<?php
define('CLI_SCRIPT', true);
require __DIR__ . '/../../config.php';
if (has('enable')) {
    set_setting('cron_enabled', '1');
    end_with('Cron has been enabled', 0);
}
if (preg_grep('/^--disable-wait/', $_SERVER['argv'])) {
    set_setting('cron_enabled', '0');
    end_with('Cron has been disabled; all tasks finished', 0);
}
if (get_setting('cron_enabled') !== '1') {
    end_with('Cron is disabled', 1);
}
$DB->execute_query("INSERT INTO {$CFG->prefix}cron (host, minute) VALUES (?, ?)", [gethostname(), gmdate('Y-m-d\TH:i')]);
end_with('Cron completed', 0);
