// Where the page is: all of its state is in the address, so that every view can be linked to.
import { computed, signal } from "@preact/signals";

export interface Place {
  path: string;
  query: URLSearchParams;
}

const read = (): Place => ({ path: location.pathname, query: new URLSearchParams(location.search) });

export const place = signal<Place>(read());
export const path = computed(() => place.value.path);

export function go(to: string, options: { replace?: boolean; keepScroll?: boolean } = {}): void {
  if (to === location.pathname + location.search) return;
  if (options.replace) history.replaceState(null, "", to);
  else history.pushState(null, "", to);
  const isOtherPage = place.peek().path !== location.pathname;
  place.value = read();
  if (isOtherPage && !options.keepScroll) scrollTo(0, 0);
}

// Changes some of what the query says; an empty value takes the name out, and a list has a parameter for each of its values.
export function setQuery(changes: Record<string, string | string[]>, options: { path?: string; replace?: boolean } = {}): void {
  const query = new URLSearchParams(location.search);
  for (const [name, value] of Object.entries(changes)) {
    query.delete(name);
    for (const one of [value].flat()) if (one) query.append(name, one);
  }
  go(href(options.path ?? location.pathname, query), { replace: options.replace ?? true, keepScroll: true });
}

export function href(path: string, query: URLSearchParams | Record<string, string> = {}): string {
  const text = new URLSearchParams(query).toString().replaceAll("%2C", ",");
  return text ? `${path}?${text}` : path;
}

addEventListener("popstate", () => (place.value = read()));

// Links within the dashboard change the page without loading it.
addEventListener("click", (event) => {
  if (event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  const link = (event.target as Element).closest?.("a");
  if (!link || link.origin !== location.origin || link.target || link.hasAttribute("download")) return;
  if (link.pathname.startsWith("/v1/")) return;
  event.preventDefault();
  if (link.hash && link.pathname === location.pathname) {
    document.querySelector<HTMLElement>(link.hash)?.focus();
    return;
  }
  go(link.pathname + link.search, { keepScroll: link.hasAttribute("data-keep-scroll") });
});
