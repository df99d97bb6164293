// The keys, and the switch that turns them off.
import { version } from "../core/live";
import { areKeysOn } from "../core/settings";
import { Button } from "../ui/bits";
import { Dialog } from "../ui/dialog";

const KEYS: [string[], string][] = [
  [["/"], "search"],
  [["j", "k"], "row down, row up"],
  [["Enter"], "open the row"],
  [["x"], "select the row"],
  [["u"], "back to the list"],
  [["Esc"], "close, clear the selection"],
  [["g j", "g h", "g s"], "jobs, hosts, server"],
  [["n"], "submit a job"],
  [["p"], "pause or resume"],
  [["c"], "cancel"],
  [["r"], "retry"],
  [["f"], "failures"],
  [["."], "pause updates"],
  [["t"], "theme"],
  [["?"], "this help"],
];

export function Help({ onClose }: { onClose: () => void }) {
  return (
    <Dialog title="Keys" hook="help" onClose={onClose} wide>
      <dl class="keys">
        {KEYS.map(([keys, what]) => (
          <div key={what}>
            <dt>
              {keys.map((it) => (
                <kbd key={it}>{it}</kbd>
              ))}
            </dt>
            <dd>{what}</dd>
          </div>
        ))}
      </dl>
      <label class="check">
        <input type="checkbox" data-testid="shortcuts-switch" data-first checked={areKeysOn.value} onChange={(event) => (areKeysOn.value = event.currentTarget.checked)} />
        <span>Single keys are shortcuts</span>
      </label>
      <div class="dialog-actions">
        {version.value && <span class="muted push-right">haul {version.value}</span>}
        <Button onClick={onClose}>Close</Button>
      </div>
    </Dialog>
  );
}
