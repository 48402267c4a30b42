<?php
// Everything that a page or a script begins with. CLI_SCRIPT, ABORT_AFTER_CONFIG and NO_MAINTENANCE are as Moodle has them.
mysqli_report(MYSQLI_REPORT_ERROR | MYSQLI_REPORT_STRICT);
$CFG->dirroot = dirname(__DIR__);
foreach (['dataroot', 'tempdir', 'cachedir', 'localcachedir'] as $name) {
    is_dir($CFG->$name) || mkdir($CFG->$name, $CFG->directorypermissions, true) || exit("cannot make $name\n");
}

// The component cache: what follows from the code, kept on this node. A stale one ends everything.
function app_components(): string {
    global $CFG;
    return "<?php return '" . sha1_file("$CFG->dirroot/version.php") . "';\n";
}
if (!defined('IGNORE_COMPONENT_CACHE')) {
    if (!file_exists($CFG->alternative_component_cache)) {
        file_put_contents($CFG->alternative_component_cache, app_components());
    }
    if (file_get_contents($CFG->alternative_component_cache) !== app_components()) {
        error_log('Outdated component cache file, can not continue');
        http_response_code(500);
        exit(1);
    }
}
if (defined('ABORT_AFTER_CONFIG')) {
    return;
}
if (!defined('CLI_SCRIPT') && file_exists("$CFG->dataroot/climaintenance.html")) {
    http_response_code(503);
    header('Retry-After: 30');
    exit('maintenance');
}
$DB = new mysqli($CFG->dbhost, $CFG->dbuser, $CFG->dbpass, $CFG->dbname, $CFG->dboptions['dbport']);
$DB->set_charset('utf8mb4');

function get_setting(string $name): ?string {
    global $DB, $CFG;
    $found = $DB->execute_query("SELECT value FROM {$CFG->prefix}config WHERE name = ?", [$name])->fetch_row();
    return $found ? $found[0] : null;
}
function set_setting(string $name, string $value): void {
    global $DB, $CFG;
    $DB->execute_query("REPLACE INTO {$CFG->prefix}config (name, value) VALUES (?, ?)", [$name, $value]);
}
function has(string $option): bool {
    return in_array("--$option", $_SERVER['argv'], true);
}
function end_with(string $text, int $status): void {
    fwrite($status === 0 ? STDOUT : STDERR, "$text\n");
    exit($status);
}
