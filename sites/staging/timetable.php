<?php
// The timetable's config/local.php. The code's own file has read the secrets into $fleet: docs/configuration.md.
return [
    'database' => ['dsn' => 'mysql:host=10.21.0.7;dbname=timetable;charset=utf8mb4', 'user' => 'timetable', 'password' => $fleet['databasePassword']],
    'key' => $fleet['key'],
];
