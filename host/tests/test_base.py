"""Promises of the base step, on a directory that stands for a machine."""

import hashlib
import json
import os
import subprocess
import unittest

import base
from tests.machine import Machine

# <root>/installed is the list of installed packages; apt-get adds to it and notes what it sees.
DPKG_QUERY = """#!/bin/sh
shift 3; status=0
for name; do
    if grep -qx "$name" "${0%/*}/../installed"; then echo "ii $name"; else status=1; fi
done
exit $status
"""
APT_GET = """#!/bin/sh
here=${0%/*}/..
case " $* " in *" update "*) exit 0 ;; esac
[ -e "$here/usr/sbin/policy-rc.d" ] && sh "$here/usr/sbin/policy-rc.d" || echo "policy $?" >> "$here/calls"
for last; do :; done
[ "$last" = no-such-package ] && { echo "E: Unable to locate package $last"; exit 100; }
echo "$last" >> "$here/installed"; echo "install $last" >> "$here/calls"
"""
# <root>/disks/<device> holds what blkid finds on it.
BLKID = """#!/bin/sh
here=${0%/*}/..
for last; do :; done
case $1 in
-p) cat "$here/disks/${last##*/}" 2>/dev/null || exit 2 ;;
*) found=$(grep -lx "LABEL=$last" "$here"/disks/* 2>/dev/null) || exit 2; echo "/dev/${found##*/}" ;;
esac
"""
MKFS = """#!/bin/sh
here=${0%/*}/..
for last; do :; done
printf 'TYPE=btrfs\\nLABEL=%s\\n' "$3" > "$here/disks/${last##*/}"; echo "mkfs $last" >> "$here/calls"
"""
LSBLK = """#!/bin/sh
cat "${0%/*}/../lsblk.json"
"""

DATA = {"label": "data", "type": "btrfs", "device": "/dev/sdb"}


def disk(name, **fields):
    about = {"name": name, "type": "disk", "ro": False, "size": 10 << 30, "fstype": None, "pttype": None}
    return {**about, "mountpoints": [None], **fields}


class OnAMachine(unittest.TestCase):
    def setUp(self):
        self.machine = Machine()
        self.addCleanup(self.machine.close)
        for name, text in (
            ("dpkg-query", DPKG_QUERY), ("apt-get", APT_GET), ("blkid", BLKID), ("mkfs.btrfs", MKFS), ("lsblk", LSBLK),
        ):  # fmt: skip
            self.machine.program(name, text)
        self.machine.write("/installed", "bash\n")
        self.machine.write("/lsblk.json", json.dumps({"blockdevices": [disk("sda", mountpoints=["/"]), disk("sdb")]}))
        (self.machine.root / "disks").mkdir()

    def bring(self, expect=0, **wanted):
        done = self.machine.run("base.py", given=json.dumps({"host": "web1", **wanted}))
        self.assertEqual(expect, done.returncode, done.stderr)
        return json.loads(done.stdout) if expect == 0 else done.stderr


class Bringing(OnAMachine):
    def test_only_missing_packages_are_installed_and_none_may_start_a_service(self):
        self.assertEqual(["apache2"], self.bring(packages=["bash", "apache2"])["packages"])
        self.assertEqual(["policy 101", "install apache2"], self.machine.calls())
        self.assertFalse(self.machine.exists("/usr/sbin/policy-rc.d"))
        self.assertEqual([], self.bring(packages=["bash", "apache2"])["packages"])
        self.assertEqual([], self.machine.calls())

    def test_a_policy_that_was_there_is_there_again_even_after_a_failure(self):
        self.machine.write("/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 0\n")
        self.assertIn("Unable to locate package no-such-package", self.bring(expect=1, packages=["no-such-package"]))
        self.assertEqual("#!/bin/sh\nexit 0\n", self.machine.read("/usr/sbin/policy-rc.d"))

    def test_a_policy_left_by_a_run_that_was_killed_goes(self):
        self.machine.write("/usr/sbin/policy-rc.d", base.NO_STARTS)
        self.bring(packages=["bash"])
        self.assertFalse(self.machine.exists("/usr/sbin/policy-rc.d"))

    def test_while_it_works_its_lock_is_held_and_afterwards_it_is_not(self):
        asked = 'flock -n "${0%/*}/../run/fleet/base.lock" echo free >> "${0%/*}/../calls" || echo held >> "${0%/*}/../calls"'
        self.machine.program("apt-get", f"#!/bin/sh\n{asked}\n")
        self.bring(packages=["apache2"])
        self.assertEqual({"held"}, set(self.machine.calls()))
        subprocess.run([self.machine.root / "bin/apt-get"], check=True)
        self.assertEqual("free", self.machine.calls()[-1])

    def test_units_of_the_distribution_are_disabled_once(self):
        self.machine.write("/units/apache2.service.enabled", "enabled\n")
        self.machine.write("/units/nfs-server.service", "active\n")
        units = ["apache2.service", "nfs-server.service", "absent.service"]
        self.assertEqual(units[:2], self.bring(disable=units)["disabled"])
        self.assertEqual(["disable --now apache2.service nfs-server.service"], self.machine.calls())
        (self.machine.root / "units/apache2.service.enabled").unlink()
        self.assertEqual([], self.bring(disable=units)["disabled"])

    def test_programs_are_written_when_they_differ(self):
        self.assertEqual(["a.py"], self.bring(programs={"a.py": "one\n"})["programs"])
        self.assertEqual([], self.bring(programs={"a.py": "one\n"})["programs"])
        self.assertEqual(["a.py"], self.bring(programs={"a.py": "two\n"})["programs"])
        self.assertEqual(0o755, (self.machine.root / "usr/local/lib/fleet/a.py").stat().st_mode & 0o777)

    def test_every_mistake_is_told_and_nothing_is_done(self):
        self.assertIn("unknown key 'colour'", self.bring(expect=2, colour=1, programs={"a": "x\n"}))
        self.assertFalse(self.machine.exists("/usr/local/lib/fleet"))
        said = self.bring(
            expect=2, packages=["-o x"], programs={"../x": ""}, filesystems=[{"type": "zfs"}], artefacts=[{"name": "x"}]
        )
        for part in (
            "'-o x' is not",
            "'../x' is not",
            "needs a label",
            "needs a plain name and a sha256",
            "needs urls",
        ):
            self.assertIn(part, said)


class FileSystems(OnAMachine):
    def test_a_file_system_is_made_on_an_empty_device_once(self):
        self.assertEqual({"data": "made on /dev/sdb"}, self.bring(filesystems=[DATA])["filesystems"])
        self.assertEqual({"data": "present"}, self.bring(filesystems=[DATA])["filesystems"])
        self.assertEqual(["mkfs /dev/sdb"], self.machine.calls())

    def test_a_device_that_carries_anything_else_is_never_written(self):
        for found in ("TYPE=btrfs\nLABEL=other\n", "TYPE=ext4\n", "PTTYPE=gpt\n"):
            self.machine.write("/disks/sdb", found)
            self.assertIn("/dev/sdb carries", self.bring(expect=1, filesystems=[DATA]))
            self.assertEqual(found, self.machine.read("/disks/sdb"))
        self.assertEqual([], self.machine.calls())

    def test_without_a_device_the_one_empty_disk_is_found_and_then_known_by_its_label(self):
        wanted = {"label": "data", "type": "btrfs"}
        self.assertEqual({"data": "made on /dev/sdb"}, self.bring(filesystems=[wanted])["filesystems"])
        self.assertEqual({"data": "present"}, self.bring(filesystems=[wanted])["filesystems"])

    def test_what_is_in_use_is_not_an_empty_disk(self):
        used = [
            disk("a", mountpoints=["/"]), disk("b", fstype="ext4"), disk("c", pttype="gpt"), disk("d", ro=True),
            disk("e", children=[{}]), disk("f", type="rom"), disk("zram0"), disk("g", size=0),
        ]  # fmt: skip
        self.assertEqual([], base.empty_disks(used, None))
        self.assertEqual(["/dev/h"], base.empty_disks([*used, disk("h")], None))
        self.assertEqual([], base.empty_disks([disk("h")], 20))
        self.assertEqual(["/dev/h"], base.empty_disks([disk("h")], 10))


class Artefacts(OnAMachine):
    def setUp(self):
        super().setUp()
        source = self.machine.root / "source"
        (source / "sbin").mkdir(parents=True)
        (source / "sbin/php-fpm").write_text("a binary\n")
        self.packed = self.machine.root / "php.tar.zst"
        subprocess.run(["tar", "--zstd", "-cf", self.packed, "-C", source, "."], check=True)
        sha256 = hashlib.sha256(self.packed.read_bytes()).hexdigest()
        self.artefact = {"name": "8.2.32-abc", "sha256": sha256, "urls": [self.packed.as_uri()]}

    def test_code_of_an_application_is_installed_beside_what_is_there(self):
        item = {**self.artefact, "name": "shop-0a1b"}
        self.assertEqual({"shop-0a1b": "installed"}, self.bring(code=[item])["code"])
        self.assertEqual({"shop-0a1c": "installed"}, self.bring(code=[{**item, "name": "shop-0a1c"}])["code"])
        for name in ("shop-0a1b", "shop-0a1c"):
            self.assertTrue(self.machine.exists(f"/opt/code/{name}/.fleet-artefact"))
        self.assertFalse(self.machine.exists("/opt/php/shop-0a1b"))
        self.bring(expect=2, code=[{"name": "../x", "sha256": "0" * 64, "urls": ["file:///x"]}])

    def test_an_artefact_is_installed_once(self):
        self.assertEqual({"8.2.32-abc": "installed"}, self.bring(artefacts=[self.artefact])["artefacts"])
        self.assertEqual("a binary\n", self.machine.read("/opt/php/8.2.32-abc/sbin/php-fpm"))
        self.packed.unlink()
        self.assertEqual({"8.2.32-abc": "present"}, self.bring(artefacts=[self.artefact])["artefacts"])

    def test_bytes_with_another_hash_are_refused_by_name_and_the_next_url_is_tried(self):
        wrong = {**self.artefact, "sha256": "0" * 64}
        said = self.bring(expect=1, artefacts=[wrong])
        self.assertIn(f"php.tar.zst: sha256 is {self.artefact['sha256']}, expected {'0' * 64}", said)
        self.assertEqual([], os.listdir(self.machine.root / "opt/php"))
        other = self.machine.root / "other"
        other.write_text("something else")
        twice = {**self.artefact, "urls": ["file:///no/such/file", other.as_uri(), self.packed.as_uri()]}
        self.assertEqual({"8.2.32-abc": "installed"}, self.bring(artefacts=[twice])["artefacts"])

    def test_an_installation_that_was_killed_half_way_is_done_again(self):
        self.machine.write("/opt/php/.8.2.32-abc.part/leftover", "x\n")
        self.bring(artefacts=[self.artefact])
        self.assertEqual(["8.2.32-abc"], os.listdir(self.machine.root / "opt/php"))
        self.assertFalse(self.machine.exists("/opt/php/8.2.32-abc/leftover"))


if __name__ == "__main__":
    unittest.main()
