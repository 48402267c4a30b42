<?php
// Says as JSON who answered, and uses all that a page uses: session, database, dataroot, Redis by Moodle's settings.
require __DIR__ . '/config.php';
require __DIR__ . '/version.php';
session_start();
$_SESSION['visits'] = ($_SESSION['visits'] ?? 0) + 1;
$host = gethostname();
$DB->execute_query("INSERT INTO {$CFG->prefix}visit (host) VALUES (?)", [$host]);
file_put_contents("$CFG->dataroot/last-$host", (string) time());
$redis = new Redis();
$redis->connect($CFG->session_redis_host, $CFG->session_redis_port, 2);
$redis->auth($CFG->session_redis_auth);
$redis->setOption(Redis::OPT_PREFIX, $CFG->session_redis_prefix);
$redis->hSet('session_test', 'sessdata', $host);
header('Content-Type: application/json');
echo json_encode([
    'host' => $host,
    'release' => $release,
    'code' => basename($CFG->dirroot),
    'database' => (int) get_setting('version'),
    'visits' => $_SESSION['visits'],
    'redis' => $redis->hGet('session_test', 'sessdata') !== false,
    'wwwroot' => $CFG->wwwroot,
]), "\n";
