"""Promises of records: it tells what the record of a build says it links, and nothing of what has none."""

import json
import unittest

from tests.machine import Machine

STORE = "/var/lib/fleet/artefacts"


class Records(unittest.TestCase):
    def setUp(self):
        self.machine = Machine()
        self.addCleanup(self.machine.close)

    def said(self):
        done = self.machine.run("records.py")
        self.assertEqual(0, done.returncode, done.stderr)
        return json.loads(done.stdout)

    def test_each_build_of_the_store_is_told_with_what_it_links(self):
        self.machine.write(f"{STORE}/8.2.99-abc.json", json.dumps({"libraries": {"libssl3": "3.0.15-1"}}))
        self.machine.write(f"{STORE}/8.4.99-def.json", json.dumps({"libraries": {}}))
        self.assertEqual({"8.2.99-abc": {"libssl3": "3.0.15-1"}, "8.4.99-def": {}}, self.said())

    def test_what_has_no_whole_record_is_not_built(self):
        self.assertEqual({}, self.said())
        self.machine.write(f"{STORE}/8.2.99-abc.tar.zst", "an archive\n")
        self.machine.write(f"{STORE}/8.2.99-abc.cdx.json", json.dumps({"components": []}))
        self.machine.write(f"{STORE}/8.2.99-abc.json", '{"libraries": {"lib')
        self.assertEqual({}, self.said())


if __name__ == "__main__":
    unittest.main()
