// Moments and durations: how they are written, read and shown.

import { make } from './elements.js';

const UNITS = { s: 1, m: 60, h: 3600, d: 86400, w: 604800, M: 2592000, y: 31536000 };
const SYNTAX = 'Enter one whole number and one of s m h d w M y, such as 12h.';
// The last moment that a Date can hold.
const LAST_MOMENT = 8.64e15;
const HOUR = 3600;
export const DAY = 86400;
export const WEEK = 604800;
// A key that expires within this time is highlighted.
const SOON = 3 * DAY;

// The page is in English, and so are its dates: in the reader's kind of English where they have one.
const LOCALE = navigator.languages.find((language) => /^en\b/i.test(language)) ?? 'en-GB';
const relative = new Intl.RelativeTimeFormat(LOCALE, { numeric: 'always' });

// ---------------------------------------------------------------- the time zone

const STORED = 'zone';
const ownZone = Intl.DateTimeFormat().resolvedOptions().timeZone;
let zone = ownZone;
let dates;
let parts;

function use(wanted) {
  dates = new Intl.DateTimeFormat(LOCALE, { dateStyle: 'medium', timeStyle: 'short', timeZone: wanted });
  parts = new Intl.DateTimeFormat('en-US', {
    timeZone: wanted, hourCycle: 'h23', year: 'numeric', month: 'numeric', day: 'numeric',
    hour: 'numeric', minute: 'numeric', second: 'numeric',
  });
  zone = wanted;
}

function stored() {
  try {
    return localStorage.getItem(STORED);
  } catch {
    // A browser may keep nothing.
    return null;
  }
}

// The zone that was chosen before may be unknown to this browser.
try {
  use(stored() ?? ownZone);
} catch {
  use(ownZone);
}

const spelled = (name) => name.replaceAll('_', ' ');
export const zoneName = () => spelled(zone);

// Fills a field with the zones, and refreshes every time when another is chosen.
export function offerZones(select, changed) {
  const names = Intl.supportedValuesOf('timeZone').filter((name) => name !== ownZone && name !== 'UTC');
  const options = [[ownZone, `${spelled(ownZone)} (this browser's)`], ['UTC', 'UTC'], ...names.map((name) => [name, spelled(name)])];
  const unique = options.filter(([name], index) => options.findIndex(([other]) => other === name) === index);
  select.replaceChildren(...unique.map(([value, label]) => make('option', { value }, label)));
  select.value = zone;
  select.addEventListener('change', () => {
    use(select.value);
    try {
      localStorage.setItem(STORED, zone);
    } catch {
      // A browser may keep nothing.
    }
    changed();
  });
}

// How far the zone is ahead of UTC at a moment, in milliseconds.
function offset(moment) {
  const read = Object.fromEntries(parts.formatToParts(moment).map(({ type, value }) => [type, Number(value)]));
  const local = Date.UTC(read.year, read.month - 1, read.day, read.hour, read.minute, read.second);
  return local - Math.floor(moment / 1000) * 1000;
}

// `2026-11-30T06:10` in the zone as RFC 3339; null for empty, or for what is no time.
export function instant(text) {
  if (text === '') return null;
  const local = Date.parse(`${text}Z`);
  if (Number.isNaN(local)) return null;
  // The offset at the moment itself, which may be another than at the first guess.
  const guess = local - offset(local);
  return new Date(local - offset(guess)).toISOString();
}

// The same the other way: what a field of a local time holds.
export function localText(text) {
  const moment = Date.parse(text);
  return Number.isNaN(moment) ? '' : new Date(moment + offset(moment)).toISOString().slice(0, 16);
}

// ---------------------------------------------------------------- durations

// `12h` in seconds; null for empty; an Error that says what to write instead.
export function seconds(text) {
  const written = text.trim();
  if (written === '') return null;
  const match = /^([0-9]+)([smhdwMy])$/.exec(written);
  if (!match || /^0+$/.test(match[1])) throw new Error(SYNTAX);
  const total = Number(match[1]) * UNITS[match[2]];
  if (Date.now() + total * 1000 > LAST_MOMENT) throw new Error('That is too long.  Choose Never for a key that does not expire.');
  return total;
}

// Seconds in words: `30 days`, `90 minutes`.
export function length(total) {
  for (const [unit, size] of [['day', DAY], ['hour', HOUR], ['minute', 60]]) {
    if (total >= size && total % size === 0) return `${(total / size).toLocaleString('en')} ${unit}${total === size ? '' : 's'}`;
  }
  return `${total.toLocaleString('en')} second${total === 1 ? '' : 's'}`;
}

// ---------------------------------------------------------------- moments

// `in 3 days`, `2 minutes ago`: in the largest unit that fits, rounded.
function beside(moment) {
  const ahead = (moment - Date.now()) / 1000;
  const steps = [['second', 1, 60], ['minute', 60, 60], ['hour', HOUR, 24], ['day', DAY, 30], ['month', 2629800, 12]];
  for (const [unit, size, limit] of steps) {
    const count = Math.round(ahead / size);
    if (Math.abs(count) < limit) {
      if (unit === 'second' && ahead <= 0 && count > -10) return 'just now';
      return relative.format(count, unit);
    }
  }
  return relative.format(Math.round(ahead / 31557600), 'year');
}

const utc = (moment) => `${moment.toISOString().slice(0, 19).replace('T', ' ')} UTC`;

// A moment in the reader's time zone; UTC is its title.
export function time(text) {
  const moment = new Date(text);
  if (Number.isNaN(moment.getTime())) return text;
  return make('time', { datetime: text, title: utc(moment) }, dates.format(moment));
}

// The same as the time that is left or gone; it is kept right by `refresh`.
export function ago(text) {
  const moment = new Date(text);
  if (Number.isNaN(moment.getTime())) return text;
  return make('time', { datetime: text, title: utc(moment), 'data-beside': '' }, beside(moment));
}

export const timeAndAgo = (text) => [time(text), ' ', make('span', { class: 'beside' }, ago(text))];

export const isPast = (text) => Boolean(text) && Date.parse(text) <= Date.now();
export const isSoon = (text) => Boolean(text) && Date.parse(text) - Date.now() <= SOON * 1000;

// Refreshes every relative time: nothing else on the page changes.
export function refresh() {
  for (const element of document.querySelectorAll('time[data-beside]')) {
    const text = beside(new Date(element.dateTime));
    if (element.textContent !== text) element.textContent = text;
  }
}
