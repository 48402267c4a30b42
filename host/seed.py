#!/usr/bin/env python3
"""Makes each site's directory on the NAS and fills an empty site once.

Argument: a JSON file {"directory", "sites": [{"name", "uid", "gid", "mode", "documentRoot"?, "quota"?, "seed"?}]}.
A site with a quota, in bytes, gets a btrfs volume of its own for its directory, which the quota is of.
A seed is {"url", "sha256"} of a tar archive with one top directory, or {"files": {path: text}}.
A site without a document root here has its directory made and nothing in it.
A document root that exists is never touched: what is in it belongs to the site.

This runs as root in trees that sites write to while it runs. So nothing below a site's directory is named by a path
that could lead through a link: each part of it is opened by itself, from the one above.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

VOLUME_INODE = 256  # of the top directory of every btrfs volume
SCRATCH = ".seed"  # in a site's directory, root's alone
# What a tree that its site has changed may answer.
CHANGED = {errno.EEXIST, errno.ELOOP, errno.ENOENT, errno.ENOTDIR, errno.ENOTEMPTY}


def enter(above, name):
    """A directory that is there, as a descriptor; OSError where it is a link or something else."""
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=above)


def own(above, name, site, mode):
    """The same where it is there or can be made; one that is new, or was left half made, becomes the site's."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, mode, dir_fd=above)
    directory = enter(above, name)
    if os.fstat(directory).st_uid == 0:
        os.fchown(directory, site["uid"], site["uid"])
    return directory


def ensure_tree(site, root):
    """The site's directory: entered by its uid and by Apache's group, by nobody else."""
    path = root / site["name"]
    if site.get("quota") and not path.exists():
        subprocess.run(["btrfs", "--quiet", "subvolume", "create", path], check=True)
    path.mkdir(mode=0o700, exist_ok=True)
    os.chown(path, site["uid"], site["gid"])
    path.chmod(int(site["mode"], 8))
    tree = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    with contextlib.suppress(OSError):  # a site that has put something else there keeps it
        os.close(own(tree, "sessions", site, 0o700))
    return tree


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


def prepare(site, scratch):
    """The content of a new document root."""
    seed = site.get("seed", {"files": {}})
    content = scratch / "content"
    content.mkdir()
    if "url" in seed:
        download(seed["url"], seed["sha256"], scratch / "archive")
        content = unpack(scratch / "archive", content)
    for name, text in seed.get("files", {}).items():
        (content / name).parent.mkdir(parents=True, exist_ok=True)
        (content / name).write_text(text)
    content.chmod(0o755)
    for directory, directories, files in os.walk(content):
        for name in [".", *directories, *files]:
            os.chown(os.path.join(directory, name), site["uid"], site["uid"], follow_symlinks=False)
    return content


@contextlib.contextmanager
def scratch_in(tree):
    """An empty directory on the same volume, which its site can move and not enter: it is named by its descriptor."""
    left = f"/proc/{os.getpid()}/fd/{tree}/{SCRATCH}"
    shutil.rmtree(left, ignore_errors=True)  # what a killed run left, and nothing through a link
    os.mkdir(SCRATCH, 0o700, dir_fd=tree)
    scratch = enter(tree, SCRATCH)
    try:
        yield Path(f"/proc/{os.getpid()}/fd/{scratch}")
    finally:
        os.close(scratch)
        shutil.rmtree(left, ignore_errors=True)


def fill(site, tree):
    """Prepares the content beside and puts it in place by one rename."""
    *parents, name = Path(site["documentRoot"]).parts
    with contextlib.ExitStack() as open_ones:
        above = tree
        for part in parents:
            above = own(above, part, site, 0o755)
            open_ones.callback(os.close, above)
        with contextlib.suppress(FileNotFoundError):
            os.stat(name, dir_fd=above, follow_symlinks=False)
            return False
        with scratch_in(tree) as place:
            content = prepare(site, place)
            os.sync()
            os.rename(content, name, dst_dir_fd=above)
    return True


def main():
    wanted = json.loads(Path(sys.argv[1]).read_text())
    root = Path(wanted["directory"])
    root.mkdir(parents=True, exist_ok=True)
    root.chmod(0o755)
    for site in wanted["sites"]:
        tree = ensure_tree(site, root)
        try:
            if "documentRoot" in site and fill(site, tree):
                print(f"seed: {site['name']} filled", file=sys.stderr)
        except OSError as error:
            if error.errno not in CHANGED:
                raise
            print(f"seed: {site['name']} was not filled: {error}", file=sys.stderr)
        finally:
            os.close(tree)
    limit(root.parent, root, wanted["sites"])


if __name__ == "__main__":
    main()
