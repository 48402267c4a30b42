<?php
// Exit codes are Moodle's: --is-pending 2 where an upgrade is, --is-maintenance-required 2, or 3 where none is required.
define('CLI_SCRIPT', true);
require __DIR__ . '/../../config.php';
require "$CFG->dirroot/version.php";
require "$CFG->dirroot/db/upgrade.php";
$there = get_setting('version') ?? end_with('Config table does not contain version', 1);
if ((int) $there > $version) {
    end_with('You are using a code that is older than the database', 1);
}
if ((int) $there === $version) {
    end_with("No upgrade needed for $release", 0);
}
$outage = (int) get_setting('schema') !== $schema;
if (has('is-maintenance-required')) {
    end_with($outage ? 'Upgrade pending, maintenance required' : 'Upgrade pending, no maintenance required', $outage ? 2 : 3);
}
if (has('is-pending')) {
    end_with('Upgrade pending', 2);
}
if ($outage && has('maintenance=0')) {
    end_with('This upgrade requires maintenance', 2);
}
app_upgrade($DB, $CFG->prefix, $schema);
set_setting('schema', (string) $schema);
set_setting('version', (string) $version);
end_with("Upgraded to $release", 0);
