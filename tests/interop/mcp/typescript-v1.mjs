// The TypeScript SDK's first generation, `@modelcontextprotocol/sdk`.
//
//   node typescript-v1.mjs SERVER…
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StdioClientTransport } from '@modelcontextprotocol/sdk/client/stdio.js';
import { CallToolResultSchema, ElicitRequestSchema } from '@modelcontextprotocol/sdk/types.js';
import { host } from './typescript.mjs';

const [command, ...args] = process.argv.slice(2);

await host('typescript v1', 'legacy', async ({ elicit }) => {
  const client = new Client({ name: 'interop', version: '1' }, { capabilities: elicit ? { elicitation: { url: {} } } : {} });
  if (elicit) client.setRequestHandler(ElicitRequestSchema, elicit);
  await client.connect(new StdioClientTransport({ command, args }));
  const callTool = client.callTool.bind(client);
  // The second argument is a schema in this generation.
  client.callTool = (params, options) => callTool(params, CallToolResultSchema, options);
  return client;
});
