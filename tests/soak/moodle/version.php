<?php
// A Moodle-shaped application: the same command line, config.php, dataroot, sessions and cron, and nothing of Moodle.
$version = 2026010100;
$release = '4.5.1 (Build: 20260101)';
$branch = '405';
// Another number is another schema: an upgrade to it needs an outage.
$schema = 1;
