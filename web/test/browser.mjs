// Debian's Chromium, driven by playwright-core. A violation of the content security policy, an error of a script, or a
// dialog of a script fails the test that it happens in.
import { chromium } from "playwright-core";

export const CHROMIUM = process.env.HAUL_CHROMIUM ?? "/usr/bin/chromium";

export async function startBrowser() {
  return chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"] });
}

export async function openContext(browser, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
  const wrong = [];
  await context.addInitScript(() => {
    addEventListener("securitypolicyviolation", (event) => console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`));
  });
  context.on("page", (page) => {
    page.on("pageerror", (error) => wrong.push(`error: ${error.message}`));
    page.on("dialog", (dialog) => (wrong.push(`dialog: ${dialog.message()}`), void dialog.dismiss()));
    page.on("console", (line) => {
      if (/policy:|Content Security Policy/.test(line.text())) wrong.push(line.text());
    });
  });
  return { context, wrong };
}

export const at = (page, hook, rest = "") => page.locator(`[data-testid="${hook}"]${rest}`);

export async function ready(page) {
  await page.waitForSelector('[data-testid="page"][data-ready="true"]');
}
