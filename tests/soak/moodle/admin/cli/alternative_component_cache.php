<?php
define('CLI_SCRIPT', true);
define('ABORT_AFTER_CONFIG', true);
define('IGNORE_COMPONENT_CACHE', true);
require __DIR__ . '/../../config.php';
file_put_contents($CFG->alternative_component_cache, app_components()) || exit(1);
echo "File $CFG->alternative_component_cache was updated\n";
