// What the visitor may do, so that pages do not offer what would be refused. The server decides over each call all the same:
// `src/api/access/table.rs` has what each needs.
import { signal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { Role, type WhoAmIResponse } from "../../gen/haul/v1/access_service_pb";
import { CALL, isSignInAsked, people, visits } from "./api";
import type { Job } from "./contract";

const EVERY_MS = 60_000;

// Who looks, as the server says; null until it has.
export const visitor = signal<WhoAmIResponse | null>(null);

// Asks who it is, again after somebody signed in, and from time to time: roles are granted and taken away.
export function useVisitor(): void {
  useEffect(() => {
    let isOver = false;
    visitor.value = null;
    const ask = async () => {
      const answer = await people.whoAmI({}, CALL).catch(() => null);
      if (answer && !isOver) visitor.value = answer;
    };
    void ask();
    const timer = setInterval(() => !document.hidden && !isSignInAsked.peek() && void ask(), EVERY_MS);
    return () => {
      isOver = true;
      clearInterval(timer);
    };
  }, [visits.value]);
}

// As long as it is not known who looks, nothing is held back.
function has(role: Role): boolean {
  const it = visitor.value;
  if (!it) return true;
  const isHere = (tenant: string) => tenant === "" || tenant === "*" || it.tenant === "" || tenant === it.tenant;
  return it.grants.some((grant) => grant.role === role && isHere(grant.tenant));
}

// Why the visitor may not do something, for a button that would only be refused; undefined: it may.
export const whyNot = {
  submit: () => (has(Role.SUBMIT) ? undefined : "This needs the role submit"),
  operate: () => (has(Role.OPERATOR) ? undefined : "This needs the role operator"),
  // Who submits controls jobs of its own. Of several jobs that nobody has looked at, some may be.
  control: (job?: Job) => {
    if (has(Role.CONTROL)) return undefined;
    const isOwn = !job || job.createdBy === visitor.value?.principal;
    if (isOwn && has(Role.SUBMIT)) return undefined;
    return has(Role.SUBMIT) ? "This needs the role control, since somebody else submitted the job" : "This needs the role control";
  },
};

export const GONE = "This job was deleted";
