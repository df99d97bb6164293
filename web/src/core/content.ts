// What a content is, judged by its bytes. Bytes of origins are hostile: nothing of them ever becomes markup.

export type Content =
  | { kind: "json"; value: unknown }
  | { kind: "text"; text: string }
  | { kind: "hex"; text: string }
  | { kind: "image"; type: string };

export const LOOK_BYTES = 64 << 10;
export const IMAGE_BYTES_MAX = 16 << 20;
const HEX_BYTES = 4096;

const IMAGES: [string, number[]][] = [
  ["image/png", [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]],
  ["image/jpeg", [0xff, 0xd8, 0xff]],
  ["image/gif", [0x47, 0x49, 0x46, 0x38]],
];

export function judge(bytes: Uint8Array, isWhole: boolean, total: number): Content {
  const image = imageType(bytes);
  if (image && total <= IMAGE_BYTES_MAX) return { kind: "image", type: image };
  const text = textOf(bytes, isWhole);
  if (text === null) return { kind: "hex", text: hex(bytes.subarray(0, HEX_BYTES)) };
  if (isWhole && /^\s*[[{]/.test(text)) {
    try {
      const value = JSON.parse(text);
      // A number that a script would round is shown as it came.
      return isExact(text) ? { kind: "json", value } : { kind: "text", text };
    } catch {
      // It is text that looks like JSON.
    }
  }
  return { kind: "text", text };
}

// Whether a script's numbers are those of a JSON document: of more digits they would be others.
function isExact(json: string): boolean {
  const outside = json.replace(/"(?:[^"\\]|\\.)*"/g, '""');
  return (outside.match(/-?\d[\d.eE+-]*/g) ?? []).every((it) => it.replace(/[eE].*|[-.]/g, "").length < 16 && Number.isFinite(Number(it)));
}

function imageType(bytes: Uint8Array): string | null {
  for (const [type, start] of IMAGES) if (start.every((it, at) => bytes[at] === it)) return type;
  const word = (from: number) => String.fromCharCode(...bytes.subarray(from, from + 4));
  return bytes.length > 12 && word(0) === "RIFF" && word(8) === "WEBP" ? "image/webp" : null;
}

function textOf(bytes: Uint8Array, isWhole: boolean): string | null {
  if (bytes.includes(0)) return null;
  try {
    // A character may be cut where the look ends.
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes, { stream: !isWhole });
  } catch {
    return null;
  }
}

function hex(bytes: Uint8Array): string {
  const lines = [];
  for (let from = 0; from < bytes.length; from += 16) {
    const line = [...bytes.subarray(from, from + 16)];
    const digits = line.map((it) => it.toString(16).padStart(2, "0")).join(" ");
    const letters = line.map((it) => (it >= 32 && it < 127 ? String.fromCharCode(it) : "·")).join("");
    lines.push(`${from.toString(16).padStart(8, "0")}  ${digits.padEnd(48)} ${letters}`);
  }
  return lines.join("\n");
}
