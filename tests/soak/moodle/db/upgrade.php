<?php
// What an upgrade does to the database, from the version and schema that it has.
function app_upgrade(mysqli $db, string $prefix, int $schema): void {
    if ($schema >= 2) {
        $db->query("ALTER TABLE {$prefix}visit ADD COLUMN IF NOT EXISTS note VARCHAR(40) NOT NULL DEFAULT ''");
    }
}
