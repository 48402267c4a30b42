/*
 * When a cron entry runs: the part of systemd's OnCalendar syntax (systemd.time(7)) that names whole
 * minutes. Small enough to be checked here; the VM's own systemd checks it again before a change.
 */

const words = ["minutely", "hourly", "daily", "weekly", "monthly", "quarterly", "semiannually", "yearly"];
const weekdays = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/** What `isCalendar` accepts, for a message. */
export const calendarForm = `${words.join(", ")}, or [weekdays] [*-months-days] hours:minutes such as "*:0/15", "Mon..Fri 3:30", "*-*-1,15 4:00"`;

/** Whether a text is a time that a cron entry may have. */
export function isCalendar(text: string): boolean {
  if (words.includes(text)) return true;
  const parts = text.split(" ");
  const [hours, minutes, ...more] = (parts.pop() ?? "").split(":");
  if (!isField(hours, 0, 23) || !isField(minutes, 0, 59) || more.length > 0) return false;
  if (parts.at(-1)?.includes("-")) {
    const [years, months, days, ...others] = (parts.pop() ?? "").split("-");
    if (years !== "*" || !isField(months, 1, 12) || !isField(days, 1, 31) || others.length > 0) return false;
  }
  return parts.length === 0 || (parts.length === 1 && isWeekdays(parts[0] ?? ""));
}

/** `*`, or a list of numbers `5`, ranges `5..9`, and either with a step: `0/15`, `8..18/2`. */
function isField(text: string | undefined, least: number, most: number): boolean {
  if (text === "*") return true;
  return (text ?? "").split(",").every((item) => {
    const match = /^(\d{1,2})(?:\.\.(\d{1,2}))?(?:\/(\d{1,2}))?$/.exec(item);
    if (!match) return false;
    const [from, to, step] = [match[1], match[2] ?? match[1], match[3] ?? 1].map(Number) as [number, number, number];
    // A step from a single number must have somewhere to go; systemd refuses it else.
    const goes = match[3] === undefined || match[2] !== undefined || from + step <= most;
    return least <= from && from <= to && to <= most && step >= 1 && goes;
  });
}

/** `Mon`, `Mon,Thu`, `Mon..Fri`; a week begins on Monday. */
function isWeekdays(text: string): boolean {
  return text
    .toLowerCase()
    .split(",")
    .every((item) => {
      const [from = "", to = from, ...more] = item.split("..");
      return more.length === 0 && weekdays.includes(from) && weekdays.indexOf(from) <= weekdays.indexOf(to);
    });
}
