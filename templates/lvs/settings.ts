/** What the pair of directors is told beside its services. */
export interface DirectorSettings {
  /** VRRP identity on the segment. */
  readonly virtualRouterId: number;
  /** Seconds between advertisements. */
  readonly advertSeconds: number;
  /** Seconds between two checks of a real server. */
  readonly checkSeconds: number;
  /** Seconds that a check waits for its server. */
  readonly checkTimeoutSeconds: number;
  /** Whether the live one tells the other of its connections. */
  readonly connectionSync: boolean;
}

/** Seconds between a check that failed and the one that decides; see fleet:balancers.checkTimeout. */
export const checkPause = 0.4;

/** Longest until a dead server is out of the balancing: the wait for its next check, and two that fail. */
export const secondsUntilOut = ({ checkSeconds, checkTimeoutSeconds }: DirectorSettings): number =>
  checkSeconds + 2 * checkTimeoutSeconds + checkPause;
