<?php
define('CLI_SCRIPT', true);
require __DIR__ . '/../../config.php';
require "$CFG->dirroot/version.php";
$DB->query("CREATE TABLE IF NOT EXISTS {$CFG->prefix}config (name VARCHAR(80) PRIMARY KEY, value TEXT NOT NULL)");
$DB->query("CREATE TABLE IF NOT EXISTS {$CFG->prefix}visit (id INT AUTO_INCREMENT PRIMARY KEY, host VARCHAR(80) NOT NULL)");
$DB->query("CREATE TABLE IF NOT EXISTS {$CFG->prefix}cron (id INT AUTO_INCREMENT PRIMARY KEY, host VARCHAR(80) NOT NULL, minute CHAR(16) NOT NULL)");
if (get_setting('version') !== null) {
    end_with('Database tables already present', 2);
}
set_setting('version', (string) $version);
set_setting('schema', (string) $schema);
set_setting('cron_enabled', '1');
end_with('Installed', 0);
