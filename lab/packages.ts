// What a guest's Debian contains. Guests share one image, so first boots install next to nothing.
import { packageOf } from "../config/php-modules";
import { debianReleases } from "../config/schema";

/** Machine, network, and what lets a hypervisor-given identity be applied. */
const base = [
  "systemd-sysv",
  "dbus",
  "udev",
  "kmod",
  "openssh-server",
  "sudo",
  "python3",
  "cloud-init",
  "ifupdown",
  "iproute2",
  "iputils-ping",
  "procps",
  "psmisc",
  "netbase",
  "ca-certificates",
  "less",
  "curl",
  "zstd",
  "xz-utils",
  "unzip",
  "tcpdump",
  "debian-archive-keyring",
  "apt",
  "e2fsprogs",
  "btrfs-progs",
  "util-linux-extra",
];

/** What the fleet's tiers run. */
const fleet = ["keepalived", "ipvsadm", "apache2", "apache2-utils", "nfs-kernel-server", "nfs-common"];

/** What the annex runs: the university's existing services. */
const annex = ["mariadb-server", "redis-server", "memcached"];

/** Shared libraries of a compiled PHP. */
const phpLibraries = [
  "libargon2-1",
  "libcurl4",
  "libfreetype6",
  "libicu72",
  "libjpeg62-turbo",
  "libonig5",
  "libpng16-16",
  "libsodium23",
  "libsqlite3-0",
  "libssl3",
  "libsystemd0",
  "libwebp7",
  "libxml2",
  "libzip4",
  "zlib1g",
];

/** Debian releases an image can be built of. */
export const releases: readonly string[] = debianReleases;

export function packages(release: string): string[] {
  const known = debianReleases.find((each) => each === release);
  if (known === undefined) throw new Error(`no package list for Debian "${release}": use one of ${releases.join(", ")}`);
  return [...base, ...fleet, ...annex, ...phpLibraries.map((name) => packageOf(known, name))].sort();
}

/** Units of those packages that must not start by themselves: the fleet, or the annex, starts what it needs. */
export const disabledUnits = [
  "apache2.service",
  "apache-htcacheclean.service",
  "apt-daily.timer",
  "apt-daily-upgrade.timer",
  "dpkg-db-backup.timer",
  "e2scrub_all.timer",
  "e2scrub_reap.service",
  "fstrim.timer",
  "keepalived.service",
  "man-db.timer",
  "mariadb.service",
  "memcached.service",
  "nfs-blkmap.service",
  "nfs-client.target",
  "nfs-server.service",
  "redis-server.service",
  "rpcbind.service",
  "rpcbind.socket",
  "rpc-statd.service",
  "systemd-timesyncd.service",
  "logrotate.timer",
];

/** Units that only cost time: what they prepare does not exist in a guest, or is nobody's use there. */
export const maskedUnits = [
  ...["configfs", "dm_mod", "drm", "efi_pstore", "fuse", "loop"].map((module) => `modprobe@${module}.service`),
  "console-getty.service",
  "dev-hugepages.mount",
  "dev-mqueue.mount",
  "sys-fs-fuse-connections.mount",
  "sys-kernel-config.mount",
  "sys-kernel-debug.mount",
  "sys-kernel-tracing.mount",
  "ifupdown-pre.service",
  "ipvsadm.service",
  "kmod-static-nodes.service",
  "serial-getty@tty0.service",
  "systemd-binfmt.service",
  "systemd-networkd-wait-online.service",
  "systemd-pstore.service",
  "systemd-update-utmp.service",
  "systemd-update-utmp-runlevel.service",
];
