import { execFileSync } from "child_process";
import * as fs from "fs";
import * as path from "path";
import { sourcesDirectory } from "../../lab/sources";
import { annex } from "../../lab/settings";
import { temporary } from "../lab/lab";

const git = (at: string, ...words: string[]): string =>
  execFileSync("git", ["-C", at, "-c", "user.name=Lab", "-c", "user.email=lab@lab.test", ...words], { encoding: "utf8" }).trim();

/** A Git repository of an application, which the annex gives out as plain files: no server of Git's own is there. */
export class Repository {
  private readonly work = temporary("code");
  private readonly bare: string;
  readonly url: string;

  constructor(
    readonly name: string,
    source: string,
  ) {
    this.bare = path.join(sourcesDirectory, `${name}.git`);
    this.url = `http://${annex.address}/${name}.git`;
    fs.cpSync(source, this.work, { recursive: true });
    git(this.work, "init", "-q", "-b", "main");
  }

  /** Commits the tree with these files changed; the commit's hash. */
  commit(change: Readonly<Record<string, (text: string) => string>> = {}): string {
    for (const [file, edit] of Object.entries(change)) {
      const place = path.join(this.work, file);
      fs.writeFileSync(place, edit(fs.existsSync(place) ? fs.readFileSync(place, "utf8") : ""));
    }
    git(this.work, "add", "-A", "-f");
    git(this.work, "commit", "-q", "-m", "A change");
    return git(this.work, "rev-parse", "HEAD");
  }

  /** Has the annex give out what was committed. */
  publish(): void {
    this.remove();
    git(this.work, "clone", "-q", "--bare", this.work, this.bare);
    git(this.bare, "update-server-info");
  }

  remove(): void {
    fs.rmSync(this.bare, { recursive: true, force: true });
  }
}
