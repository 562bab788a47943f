// The TypeScript SDK's second generation, `@modelcontextprotocol/client`.
//
//   node typescript-v2.mjs legacy|auto|2026-07-28 SERVER…
import { Client } from '@modelcontextprotocol/client';
import { StdioClientTransport } from '@modelcontextprotocol/client/stdio';
import { host } from './typescript.mjs';

const [mode, command, ...args] = process.argv.slice(2);
const versionNegotiation = mode.startsWith('20') ? { mode: { pin: mode } } : { mode };

await host(`typescript v2 ${mode}`, mode === 'legacy' ? 'legacy' : 'modern', async ({ elicit }) => {
  const capabilities = elicit ? { elicitation: { url: {} } } : {};
  const client = new Client({ name: 'interop', version: '1' }, { capabilities, versionNegotiation });
  if (elicit) client.setRequestHandler('elicitation/create', elicit);
  await client.connect(new StdioClientTransport({ command, args }));
  return client;
});
