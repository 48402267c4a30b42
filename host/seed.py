#!/usr/bin/env python3
"""Makes each site's directory on the NAS and fills an empty site once.

Argument: a JSON file {"directory", "sites": [{"name", "uid", "gid", "mode", "documentRoot", "quota"?, "seed"?}]}.
A site with a quota, in bytes, gets a btrfs volume of its own for its directory, which the quota is of.
A seed is {"url", "sha256"} of a tar archive with one top directory, or {"files": {path: text}}.
A document root that exists is never touched: what is in it belongs to the site.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

VOLUME_INODE = 256  # of the top directory of every btrfs volume


def ensure_tree(site, root):
    """The site's directory: entered by its uid and by Apache's group, by nobody else."""
    path = root / site["name"]
    if site.get("quota") and not path.exists():
        subprocess.run(["btrfs", "--quiet", "subvolume", "create", path], check=True)
    path.mkdir(mode=0o700, exist_ok=True)
    os.chown(path, site["uid"], site["gid"])
    path.chmod(int(site["mode"], 8))
    sessions = path / "sessions"
    sessions.mkdir(mode=0o700, exist_ok=True)
    os.chown(sessions, site["uid"], site["uid"])
    return path


def limit(disk, root, sites):
    """Sets the quotas. Counting costs every write something, so it is off where no site has one."""
    limited = [site for site in sites if site.get("quota")]
    counts = subprocess.run(["btrfs", "qgroup", "show", disk], capture_output=True, check=False).returncode == 0
    if counts != bool(limited):
        subprocess.run(["btrfs", "quota", "enable" if limited else "disable", disk], check=True)
    for site in sites if limited else []:
        path = root / site["name"]
        if path.stat().st_ino == VOLUME_INODE:
            subprocess.run(["btrfs", "qgroup", "limit", str(site.get("quota", "none")), path], check=True)
        elif site.get("quota"):
            print(f"seed: {site['name']}: its directory was there before its quota, which is not in force", file=sys.stderr)


def download(url, sha256, target):
    digest = hashlib.sha256()
    with urllib.request.urlopen(url, timeout=60) as answer, open(target, "wb") as out:
        while block := answer.read(1 << 20):
            digest.update(block)
            out.write(block)
    if digest.hexdigest() != sha256:
        raise SystemExit(f"seed: {url} has SHA-256 {digest.hexdigest()}, expected {sha256}; nothing was unpacked")


def unpack(archive, directory):
    """The archive's content without its top directory."""
    # GNU tar strips leading slashes and refuses "..": nothing is written outside the directory.
    subprocess.run(["tar", "--no-same-owner", "-xf", archive, "-C", directory], check=True)
    tops = list(directory.iterdir())
    return tops[0] if len(tops) == 1 and tops[0].is_dir() else directory


def fill(site, tree):
    """Prepares the content beside and puts it in place by one rename."""
    document_root = tree / site["documentRoot"]
    if document_root.exists():
        return False
    seed = site.get("seed", {"files": {}})
    with tempfile.TemporaryDirectory(dir=tree, prefix=".seed-") as scratch:
        content = Path(scratch) / "content"
        content.mkdir()
        if "url" in seed:
            download(seed["url"], seed["sha256"], Path(scratch) / "archive")
            content = unpack(Path(scratch) / "archive", content)
        for name, text in seed.get("files", {}).items():
            (content / name).parent.mkdir(parents=True, exist_ok=True)
            (content / name).write_text(text)
        content.chmod(0o755)
        for directory, directories, files in os.walk(content):
            for name in [".", *directories, *files]:
                os.chown(os.path.join(directory, name), site["uid"], site["uid"], follow_symlinks=False)
        document_root.parent.mkdir(parents=True, exist_ok=True)
        os.sync()
        content.rename(document_root)
    return True


def sweep(tree):
    """Removes what a killed run left."""
    for leftover in tree.glob(".seed-*"):
        shutil.rmtree(leftover)


def main():
    wanted = json.loads(Path(sys.argv[1]).read_text())
    root = Path(wanted["directory"])
    root.mkdir(parents=True, exist_ok=True)
    root.chmod(0o755)
    for site in wanted["sites"]:
        tree = ensure_tree(site, root)
        sweep(tree)
        if fill(site, tree):
            print(f"seed: {site['name']} filled", file=sys.stderr)
    limit(root.parent, root, wanted["sites"])


if __name__ == "__main__":
    main()
