<?php
// The light page: this node's PHP and code. No database.
require __DIR__ . '/version.php';
echo "OK $release\n";
