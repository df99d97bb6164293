// Who may hold a stream. Browsers open six connections to a server over all tabs, as long as there is no HTTP/2, which they
// speak over TLS only: with six streams the seventh tab does not even load. So three tabs have one; the others poll.

const STREAMS_MAX = 3;

export interface Slot {
  release(): void;
}

export async function takeSlot(): Promise<Slot | null> {
  return navigator.locks ? byLock() : byVote();
}

async function byLock(): Promise<Slot | null> {
  for (let place = 0; place < STREAMS_MAX; place++) {
    const slot = await new Promise<Slot | null>((taken) => {
      void navigator.locks.request(`haul-stream-${place}`, { ifAvailable: true }, (lock) => {
        if (!lock) return taken(null);
        return new Promise<void>((done) => taken({ release: done }));
      });
    });
    if (slot) return slot;
  }
  return null;
}

// Without locks, which browsers keep for secure pages, the tabs count: who wants a stream asks, and each holder answers.
const channel = "BroadcastChannel" in window ? new BroadcastChannel("haul-streams") : null;
const me = Math.random().toString(36).slice(2);
let isHolding = false;
let others = new Set<string>();
channel?.addEventListener("message", ({ data }) => {
  if (data.ask && isHolding) channel.postMessage({ holds: me });
  else if (data.holds) others.add(data.holds);
});

async function byVote(): Promise<Slot | null> {
  others = new Set();
  channel?.postMessage({ ask: true });
  await new Promise((done) => setTimeout(done, 80 + Math.random() * 80));
  if (others.size >= STREAMS_MAX) return null;
  isHolding = true;
  channel?.postMessage({ holds: me });
  return {
    release: () => {
      isHolding = false;
    },
  };
}
