// Formats values for people. An unknown value is a dash.

const NONE = "–";
const MAX_LENGTH = 120;

/** Shorten a text to at most `maxLength` characters. */
export function truncate(text, maxLength = MAX_LENGTH) {
  const whole = String(text);
  return whole.length > maxLength ? `${whole.slice(0, maxLength - 1)}…` : whole;
}

/** Format a number with four significant digits, or with `digits`. */
export function number(value, digits = 4) {
  if (typeof value !== "number") return NONE;
  const size = Math.abs(value);
  if (size !== 0 && (size >= 1e6 || size < 1e-3)) return value.toExponential(2).replace("-", "−");
  return value.toLocaleString("en", { maximumSignificantDigits: digits, useGrouping: size >= 1e4 }).replace("-", "−");
}

export function fixed(value, digits) {
  return typeof value === "number" ? value.toFixed(digits).replace("-", "−") : NONE;
}

export function count(value) {
  return typeof value === "number" ? value.toLocaleString("en") : NONE;
}

export function bytes(value) {
  if (typeof value !== "number") return NONE;
  if (value < 1000) return `${value} B`;
  const power = Math.min(Math.floor(Math.log10(value) / 3), 4);
  const scaled = value / 1000 ** power;
  return `${scaled.toFixed(scaled < 10 ? 1 : 0)} ${["", "k", "M", "G", "T"][power]}B`;
}

export function seconds(value) {
  if (typeof value !== "number") return NONE;
  if (value < 10) return `${value.toFixed(value < 1 ? 2 : 1)} s`;
  if (value < 120) return `${Math.round(value)} s`;
  const minutes = Math.round(value / 60);
  if (minutes < 120) return `${minutes} min`;
  return minutes < 2880 ? `${Math.round(minutes / 60)} h` : `${Math.round(minutes / 1440)} d`;
}

export function percent(share) {
  return typeof share === "number" ? `${Math.round(share * 100)} %` : NONE;
}

/** Format a time in seconds since 1970: the time of day, and the date if it is not today. */
export function timestamp(time) {
  const date = new Date(time * 1000);
  if (Number.isNaN(date.getTime())) return NONE;
  const clock = date.toLocaleTimeString("en-GB");
  const day = date.toDateString() === new Date().toDateString() ? "" : `${date.toLocaleDateString("sv")} `;
  return day + clock;
}
