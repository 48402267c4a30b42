import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { relocated } from "../../lab/settings";
import { changedCheckout, changedConfig, curl, edit, on, pulumi, sleep, until } from "../lab/lab";

/*
 * A hostile site against its neighbour, on the fleet as it is and, as the twin, on one from which every wall is taken.
 * The attacker is the site `status`; its neighbour is `wiki`.
 */

const tree = "/srv/fleet/sites";
const php = relocated("10.77.0.101");
const [attacker, neighbour] = [
  { name: "status", uid: 20001, port: 10001 },
  { name: "wiki", uid: 20002, port: 10002 },
];

/** Says whose pool it runs in: each has its own prefix of session keys. */
const pool = "preg_match('/prefix=\\w+/', ini_get('session.save_path'), $pool); echo $pool[0] ?? '';\n";

/** The neighbour's page: leaves a secret in its temporary files, and says where it runs and what it was told. */
const victim = `<?php
file_put_contents('/tmp/neighbours-secret', 'canary');
${pool}echo ' user ', $_SERVER['REMOTE_USER'] ?? 'nobody', ' ', gethostname(), ' ', posix_getppid();
`;

/** The attacker's page: one attack a request; GOT where it has what it wants. */
const attack = `<?php
$attacks = [
  'file' => fn() => @file_get_contents('/srv/sites/wiki/htdocs/secret.txt') ?: '',
  'configuration' => fn() => @file_get_contents('/etc/fleet/php/wiki/sessions.conf') ?: '',
  'temporary file' => fn() => @file_get_contents('/tmp/neighbours-secret') ?: '',
  'list of files' => fn() => implode(@scandir('/srv/sites/wiki') ?: []),
  'process list' => fn() => is_dir('/proc/' . $_GET[gethostname()]) ? 'seen' : '',
  'unit of a neighbour' => fn() => @file_get_contents('/etc/systemd/system/fleet-site-wiki.service') ?: '',
  'signal' => fn() => @posix_kill((int) $_GET[gethostname()], 0) ? 'reached' : '',
  'OPcache' => fn() => implode(array_filter(array_keys(opcache_get_status()['scripts'] ?? []), fn($s) => str_contains($s, '/wiki/'))),
  'FastCGI by the VIP' => fn() => is_resource(@fsockopen('${php}', ${neighbour.port}, $e, $s, 2)) ? 'connected' : '',
  'port of another VM' => fn() => is_resource(@fsockopen('${relocated("10.77.0.32")}', 8100, $e, $s, 2)) ? 'connected' : '',
  'port that a neighbour will have' => fn() => is_resource(@stream_socket_server('tcp://0.0.0.0:39998')) ? 'listens' : '',
  'port of its own' => fn() => is_resource(@stream_socket_server('tcp://0.0.0.0:0')) ? 'listens' : '',
  'sessions in Redis' => function () {
    ['host' => $host, 'port' => $port, 'query' => $query] = parse_url(ini_get('session.save_path'));
    parse_str($query, $own);
    foreach ([
      fn($redis) => $redis->get('wiki:secret'),
      fn($redis) => implode(' ', $redis->keys('wiki:*') ?: []),
      fn($redis) => $redis->eval("return redis.call('get', 'wiki:secret')"),
    ] as $ask) {
      $redis = new Redis();
      if (!$redis->connect($host, $port, 2) || !$redis->auth($own['auth']) || !$redis->setex($own['prefix'] . 'mine', 60, 'x')) return 'no login';
      try {
        if ($got = $ask($redis)) return $got;
      } catch (RedisException) {
      }
    }
    return '';
  },
  'loopback' => fn() => is_resource(@fsockopen('127.0.0.1', 22, $e, $s, 2)) ? 'connected' : '',
  // Its first call; the others do what the calls do that the box has no need of, unseen by any filter.
  'io_uring' => function () {
    $code = 'import ctypes; print("ring", ctypes.CDLL(None).syscall(425, 1, ctypes.create_string_buffer(120)))';
    $said = (string) @shell_exec("/usr/bin/python3 -ISc '$code'");
    return preg_match('/^ring \\d/', $said) ? $said : (str_starts_with($said, 'ring -1') ? '' : "not tried: $said");
  },
];
$got = $attacks[$_GET['attack']]();
echo gethostname(), ' ', $got === '' ? 'denied' : 'GOT ' . substr($got, 0, 200);
`;

/** For ten seconds puts a file of its own and a link to the neighbour's in one place, in turn. */
const race = `<?php
ignore_user_abort(true);
for ($end = microtime(true) + 10; microtime(true) < $end; usleep(1000)) {
    @symlink('/srv/sites/wiki/htdocs/secret.txt', 'next');
    rename('next', 'raced.txt');
    usleep(1000);
    file_put_contents('next', 'its own');
    rename('next', 'raced.txt');
}
`;

const value = "<?php echo ini_get('memory_limit') === '77M' ? 'GOT 77M' : 'denied';\n";

const file = (site: { name: string; uid: number }, path: string, text: string): Promise<string> => {
  const target = `${tree}/${site.name}/htdocs/${path}`;
  const lines = Buffer.from(text).toString("base64");
  const owned = `chown -R ${site.uid}:33 ${tree}/${site.name}/htdocs/${path.split("/")[0] ?? ""}`;
  return on("nas1", `sudo sh -c 'mkdir -p $(dirname ${target}) && echo ${lines} | base64 -d > ${target} && ${owned}'`);
};

/** Asks as a visitor of the attacker; what came, whatever its status. */
const visit = async (path: string): Promise<string> => (await curl(`http://status.lab.test/${path}`)).out;

const inPhp = [
  "file",
  "configuration",
  "temporary file",
  "list of files",
  "process list",
  "unit of a neighbour",
  "signal",
  "OPcache",
  "FastCGI by the VIP",
  "port of another VM",
  "port that a neighbour will have",
  "port of its own",
  "sessions in Redis",
  "loopback",
  "io_uring",
];

/** A session of the neighbour's, as the server's administrator writes it. */
const plantSession = `sudo awk '$1 == "requirepass" { print "AUTH", $2; print "SETEX wiki:secret 7200 canary" }' /etc/redis/annex.conf | redis-cli`;

/** Rules of a hostile .htaccess, each in a directory of its own, and what an answer shows that it worked. */
const rules: Record<string, readonly [rules: string, page: string, worked: RegExp]> = {
  // Not of a .php: what the vhost says of those comes after .htaccess.
  SetHandler: [`SetHandler "proxy:fcgi://${php}:${neighbour.port}"`, "page.inc", /prefix=wiki/],
  "rewrite to a neighbour's port": [
    `RewriteEngine On\nRewriteRule ^page.php$ fcgi://${php}:${neighbour.port}/srv/sites/wiki/htdocs/victim.php [P,E=REMOTE_USER:admin]`,
    "page.php",
    /prefix=wiki user admin/,
  ],
  "rewrite to a neighbour's handler": [
    `RewriteEngine On\nRewriteRule ^page.php$ - [H=proxy:fcgi://${php}:${neighbour.port}]`,
    "page.php",
    /prefix=wiki/,
  ],
  "every request and visitor, by a handler of Apache's": [
    "RewriteEngine On\nRewriteRule ^page.inc$ - [H=server-status]",
    "page.inc",
    /Apache Server Status/,
  ],
  PHP_ADMIN_VALUE: ["RewriteEngine On\nRewriteRule ^value.php$ - [E=PHP_ADMIN_VALUE:memory_limit=77M]", "value.php", /GOT/],
  "link to a neighbour's file": ["# nothing", "link.txt", /canary/],
  "link to a neighbour's directory": ["# nothing", "link/secret.txt", /canary/],
};

/** In the root of the attacker's site, for FPM knows its own pages by their whole path. */
const statusRule = `RewriteEngine On\nRewriteRule ^fleet-fpm-(status|ping)$ fcgi://${php}:${neighbour.port}/fleet-fpm-$1 [P]\n`;

/** A FastCGI request from a machine that is no Apache VM. */
const fromElsewhere = `sudo python3 -IB -c 'import socket, sys; sys.path.insert(0, "/etc/fleet/lib"); import probes
c = socket.create_connection(("${php}", ${neighbour.port}), 5); c.sendall(probes.fastcgi_request("/fleet-fpm-ping"))
try: got = c.recv(4096)
except OSError: got = b""
print("GOT" if b"pong" in got else "denied")'`;

beforeAll(async () => {
  expect(await on("annex", plantSession)).toBe("OK\nOK\n");
  await file(neighbour, "secret.txt", "canary\n");
  await file(neighbour, "victim.php", victim);
  await file(attacker, "attack.php", attack);
  await file(attacker, "race.php", race);
  await file(attacker, "value.inc", value);
  for (const [n, [rule]] of Object.values(rules).entries()) {
    await file(attacker, `h${n}/.htaccess`, `${rule}\n`);
    for (const page of ["page.php", "page.inc"]) await file(attacker, `h${n}/${page}`, `<?php ${pool}`);
    await file(attacker, `h${n}/value.php`, value);
    const links = "ln -sfn /srv/sites/wiki/htdocs/secret.txt link.txt && ln -sfn /srv/sites/wiki/htdocs link";
    await on("nas1", `sudo sh -c 'cd ${tree}/status/htdocs/h${n} && ${links} && chown -h ${attacker.uid}:33 link.txt link'`);
  }
  await file(attacker, ".htaccess", statusRule);
});

afterAll(async () => {
  const { code, out, err } = await pulumi(["up", "--yes", "--skip-preview"]);
  await on(
    "nas1",
    `sudo sh -c 'rm -rf ${tree}/wiki/htdocs/secret.txt ${tree}/wiki/htdocs/victim.php ${tree}/status/htdocs/attack.php ${tree}/status/htdocs/race.php ${tree}/status/htdocs/value.inc ${tree}/status/htdocs/raced.txt ${tree}/status/htdocs/next ${tree}/status/htdocs/.htaccess ${tree}/status/htdocs/h[0-9]; chmod o-w ${tree}/status/htdocs'`,
  );
  expect(code, out + err).toBe(0);
});

/** Asks until each PHP VM has answered: the balancers choose. */
async function onBoth(ask: () => Promise<string>, host: (said: string) => string | undefined): Promise<Record<string, string>> {
  const said: Record<string, string> = {};
  for (let n = 0; n < 40 && Object.keys(said).length < 2; n++) {
    const answer = await ask();
    said[host(answer) ?? ""] = answer;
  }
  return said;
}

/** Asks for a file that the attacker makes a link and a file of its own in turn. */
async function raced(): Promise<string> {
  const swapping = visit("race.php");
  let said = "";
  for (let n = 0; n < 100 && !said.includes("canary"); n++) said = await visit("raced.txt");
  await swapping;
  return said.includes("canary") ? `GOT ${said}` : "denied";
}

/** Asks for the neighbour's file while the attacker's document root is a link to the neighbour's. */
async function throughTheRoot(): Promise<string> {
  const [root, aside] = [`${tree}/status/htdocs`, `${tree}/status/htdocs.aside`];
  await on("nas1", `sudo sh -c 'mv ${root} ${aside} && ln -s /srv/sites/wiki/htdocs ${root} && chown -h ${attacker.uid}:33 ${root}'`);
  try {
    // The Apache VMs remember what was there for a while.
    for (let n = 0; n < 90; n++) {
      const said = await visit("secret.txt");
      if (said.includes("canary")) return `GOT ${said}`;
      await sleep(1);
    }
    expect(await visit("value.inc")).not.toContain("memory_limit");
    return "denied";
  } finally {
    await on("nas1", `sudo sh -c 'rm ${root} && mv ${aside} ${root}'`);
    await until(async () => (await visit("value.inc")).includes("memory_limit"), 90, "the attacker's own files are there again");
  }
}

/** Every attack, by name: what came of it on any of the PHP VMs. */
async function attacks(): Promise<Record<string, string>> {
  const seen = /^prefix=wiki user nobody (\w+) (\d+)$/;
  const victims = await onBoth(
    async () => (await curl("http://wiki.lab.test/victim.php")).out,
    (said) => seen.exec(said)?.[1],
  );
  expect(Object.keys(victims).sort()).toEqual(["php1", "php2"]);
  const masters = Object.entries(victims).map(([vm, said]) => `${vm}=${seen.exec(said)?.[2]}`);
  const found: Record<string, string> = {};
  for (const name of inPhp) {
    const words = [`attack=${encodeURIComponent(name)}`, ...masters];
    const said = Object.values(
      await onBoth(
        () => visit(`attack.php?${words.join("&")}`),
        (text) => /^\w+/.exec(text)?.[0],
      ),
    );
    expect(said.map((text) => text.split(" ")[0]).sort(), name).toEqual(["php1", "php2"]);
    found[name] = said.every((text) => text.endsWith(" denied"))
      ? "denied"
      : (said.find((text) => text.includes("GOT"))?.replace(/^\w+ /, "") ?? said.join());
  }
  for (const [n, [name, [, page, worked]]] of Object.entries(rules).entries()) {
    const said = await visit(`h${n}/${page}`);
    found[name] = worked.test(said) ? `GOT ${said.slice(0, 100)}` : "denied";
  }
  const pages = [await visit("fleet-fpm-status?full"), await visit("fleet-fpm-ping")].join(" ");
  found["a neighbour's page of FPM's status"] =
    /^pool: +wiki$/m.test(pages) || /\bpong\b/.test(pages) ? `GOT ${pages.slice(0, 100)}` : "denied";
  found["a link that is not always one"] = await raced();
  found["a link as its document root"] = await throughTheRoot();
  found["FastCGI from another machine"] = (await on("nas1", fromElsewhere)).trim();
  return found;
}

const tell = (what: string, found: Record<string, string>): void => {
  const rows = Object.entries(found).map(([name, said]) => `  ${name.padEnd(34)} ${said.replace(/\s+/g, " ").slice(0, 90)}`);
  process.stdout.write(`\n${what}\n${rows.join("\n")}\n`);
};

describe("a hostile site", () => {
  it("gets nothing of its neighbour", async () => {
    // A mount that comes back while Apache runs must be no other one.
    for (const vm of ["web1", "web2"]) await on(vm, "sudo systemctl restart srv-sites.mount");
    const found = await attacks();
    tell("the fleet as it is", found);
    expect(Object.entries(found).filter(([, said]) => said !== "denied")).toEqual([]);
  });

  it("gets everything on a fleet without the walls", async () => {
    const box = "templates/php/box.mustache";
    const walls =
      /^(TemporaryFileSystem|BindPaths|InaccessiblePaths|ProtectProc|ProcSubset|PrivateDevices|PrivateIPC)=.*\n|^\{\{[#/](denied|allowed)\}\}\n|^(IPAddress\w+|ExecStartPre|SystemCallFilter)=.*\n/gm;
    const copy = await changedCheckout(box, (text) =>
      // Without a /tmp of its own it needs that of the machine.
      text
        .replace(/^TemporaryFileSystem=\/tmp:.*$/m, "ReadWritePaths=/tmp")
        .replaceAll(walls, "")
        .replace("User={{uid}}", `User=${neighbour.uid}`)
        .replace("Group={{uid}}", `Group=${neighbour.uid}`),
    );
    // One user for all needs files and trees that it may read.
    edit(copy, "templates/php/fpm.ts", (text) => text.replace('mode: "0640" }', 'mode: "0644" }'));
    edit(copy, "templates/php/fpm.ts", (text) => text.replace(/^ +"net.ipv4.ip_unprivileged_port_start".*\n/m, ""));
    edit(copy, "templates/nas/server.ts", (text) => text.replace('mode: "0710"', 'mode: "0711"'));
    edit(copy, "host/store.py", (text) => text.replace("mode=0o700", "mode=0o755"));
    edit(copy, "templates/php/fpm.conf.mustache", (text) =>
      text
        .replaceAll(/^(listen.allowed_clients|php_admin_value\[auto_prepend_file\]).*\n/gm, "")
        .replace(/(security.limit_extensions =) .*/, "$1"),
    );
    edit(copy, "templates/apache/vhost.conf.mustache", (text) =>
      // The name that the guard asks for stays: a PHP VM that has its turn later would answer nobody without it.
      text.replaceAll(/^ +ProxyFCGISetEnvIf (?!"true" FLEET_SITE ).*\n/gm, "").replace("SymLinksIfOwnerMatch", "FollowSymLinks"),
    );
    edit(copy, "templates/apache/fleet.conf.mustache", (text) => text.replace("SymLinksIfOwnerMatch", "FollowSymLinks"));
    edit(copy, "templates/apache/apache.ts", (text) =>
      text.replace('"RewriteRule",', '"RewriteRule", "SetHandler",').replace('"ssl",', '"ssl", "status",'),
    );
    const config = changedConfig((text) =>
      text.replace(/fleet:redis:\n( +)/, "$&users: one\n$1").replace(/^( +)apache:\n( +)/m, "$&symbolicLinks: owner\n$2"),
    );
    const { code, out, err } = await pulumi(["up", "--yes", "--skip-preview"], copy, config);
    expect(code, out + err).toBe(0);
    // Since a boot of the VM nobody knows what the parameter was before the fleet's value.
    for (const vm of ["php1", "php2"]) await on(vm, "sudo sysctl -q -w net.ipv4.ip_unprivileged_port_start=1024");
    // The attacker has its neighbour's uid here, and still needs to write into its own tree.
    await on("nas1", `sudo chmod o+w ${tree}/${attacker.name}/htdocs`);
    const { OPcache: ofItsOwn, ...found } = await attacks();
    tell("a fleet without the walls", found);
    expect(Object.entries(found).filter(([, said]) => !said.startsWith("GOT"))).toEqual([]);
    // A master of its own is no wall that can be taken away.
    expect(ofItsOwn).toBe("denied");
  });
});
