<?php
// The institutional site's wp-config.php. The code's own file has read the secrets into $fleet: docs/configuration.md.
define('DB_NAME', 'institutional');
define('DB_USER', 'institutional');
define('DB_PASSWORD', $fleet['databasePassword']);
define('DB_HOST', '10.20.0.7');
define('DB_CHARSET', 'utf8mb4');
define('DB_COLLATE', '');
$table_prefix = 'wp_';

foreach (['AUTH', 'SECURE_AUTH', 'LOGGED_IN', 'NONCE'] as $use) {
    define("{$use}_KEY", hash_hmac('sha256', "$use key", $fleet['key']));
    define("{$use}_SALT", hash_hmac('sha256', "$use salt", $fleet['key']));
}

// Code comes from Git, and cron by itself.
define('DISALLOW_FILE_MODS', true);
define('DISABLE_WP_CRON', true);

defined('ABSPATH') || define('ABSPATH', $fleet['code'] . '/');
require_once ABSPATH . 'wp-settings.php';
