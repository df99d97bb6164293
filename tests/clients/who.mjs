// Says who calls, with and without a token, over TLS. Run by tests/clients.rs as `who.mjs ADDRESS CA TOKEN`.

import assert from 'node:assert';
import { readFileSync } from 'node:fs';
import { Client, Code } from 'haul-client';

const [address, file, token] = process.argv.slice(2);
const ca = readFileSync(file);
for (const settings of [{}, { token, tenant: 'nobody' }, { token, tenant: 'default' }]) {
  const client = new Client(address, { ca, ...settings });
  try {
    const { principal, tenant } = await client.access.whoAmI({});
    console.log(principal, 'of', tenant || 'default');
  } catch (error) {
    console.log(Code[error.code].replace(/(.)([A-Z])/g, '$1_$2').toUpperCase(), error.reason);
  }
  client.close();
}

let refused = 0;
for (const [place, settings] of [['example.com:4285', { token }], ['127.0.0.1:4285', { ca }], ['ftp://127.0.0.1', {}]]) {
  try {
    new Client(place, settings);
  } catch (error) {
    assert.ok(error instanceof TypeError && error.message.includes(place), error);
    refused += 1;
  }
}
console.log('refused', refused);
