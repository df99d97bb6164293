// Numbers, sizes, times and addresses for people.
import { durationMs, timestampDate, type Duration, type Timestamp } from "@bufbuild/protobuf/wkt";

const whole = new Intl.NumberFormat("en-US");

export const count = (value: number): string => whole.format(value);

// 712,004 stays; 1,000,000 is 1 M.
export function short(value: number): string {
  if (value < 1e6) return count(value);
  const millions = value / 1e6;
  return `${millions >= 100 ? Math.round(millions) : trim(millions)} M`;
}

const trim = (value: number): string => (Math.floor(value * 10) / 10).toFixed(1).replace(/\.0$/, "");

const UNITS = ["B", "kB", "MB", "GB", "TB", "PB"];

export function bytes(value: number | bigint): string {
  let size = Number(value);
  let unit = 0;
  while (size >= 999.5 && unit < UNITS.length - 1) {
    size /= 1000;
    unit++;
  }
  return `${unit === 0 || size >= 99.5 ? Math.round(size) : size.toFixed(1)} ${UNITS[unit]}`;
}

export const rate = (value: number | bigint): string => `${bytes(value)}/s`;

export function percent(part: number, all: number): string {
  if (!all) return "0 %";
  // What is not done is never 100 %.
  return `${part >= all ? 100 : Math.min(99, Math.floor((part / all) * 100))} %`;
}

export function span(ms: number): string {
  if (ms < 1000) return `${Math.max(0, Math.round(ms))} ms`;
  const seconds = ms / 1000;
  if (seconds < 10) return `${(Math.floor(seconds * 10) / 10).toString()} s`;
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} m ${pad(Math.floor(seconds % 60))} s`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return `${hours} h ${pad(minutes % 60)} m`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

const pad = (value: number): string => String(value).padStart(2, "0");

export const durationText = (it: Duration): string => span(durationMs(it));

// The time that is left, which nobody needs to the second.
export function left(it: Duration | undefined): string {
  if (!it) return "";
  const seconds = durationMs(it) / 1000;
  if (seconds < 1) return "1 s";
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min`;
  if (seconds < 48 * 3600) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} d`;
}

export function ago(time: Timestamp | undefined, now: number): string {
  if (!time) return "";
  const seconds = (now - timestampDate(time).getTime()) / 1000;
  if (seconds < 0) return `in ${roughly(-seconds)}`;
  return seconds < 5 ? "just now" : `${roughly(seconds)} ago`;
}

function roughly(seconds: number): string {
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 48 * 3600) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} d`;
}

export const clock = (time: Date): string => [time.getHours(), time.getMinutes(), time.getSeconds()].map(pad).join(":");

export function stamp(time: Timestamp | undefined): string {
  if (!time) return "–";
  const date = timestampDate(time);
  const day = `${date.getFullYear()}-${pad(date.getMonth() + 1)}-${pad(date.getDate())}`;
  const isToday = new Date().toDateString() === date.toDateString();
  return isToday ? clock(date) : `${day} ${clock(date)}`;
}

export const between = (from: Timestamp | undefined, to: Timestamp | undefined, now: number): string =>
  from ? span((to ? timestampDate(to).getTime() : now) - timestampDate(from).getTime()) : "";

// The ends of an id tell jobs apart: the middle of a UUIDv7 does not.
export const shortId = (id: string): string => (id.length > 12 ? `${id.slice(0, 4)}…${id.slice(-4)}` : id);

export const plural = (number: number, one: string, many = `${one}s`): string =>
  `${count(number)} ${number === 1 ? one : many}`;

// Characters that turn or hide text, which origins and submitters may send, are shown as what they are.
export const plain = (text: string): string =>
  text.replace(/[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g, "\ufffd");

export const hostOf = (url: string): string => {
  try {
    const it = new URL(url);
    return `${it.hostname}:${it.port || (it.protocol === "https:" ? 443 : 80)}`;
  } catch {
    return "";
  }
};
