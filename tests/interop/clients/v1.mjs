// The SDK's first line: `@modelcontextprotocol/sdk`, which speaks the legacy era only.

import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StdioClientTransport } from '@modelcontextprotocol/sdk/client/stdio.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import {
  ElicitRequestSchema, ResourceUpdatedNotificationSchema, ToolListChangedNotificationSchema,
} from '@modelcontextprotocol/sdk/types.js';
import { connected } from './connected.mjs';

export async function connect(access, { ask, hear }) {
  const client = new Client({ name: 'story', version: '1' }, { capabilities: ask ? { elicitation: {} } : {} });
  if (ask) client.setRequestHandler(ElicitRequestSchema, ({ params }) => ask(params.message));
  client.setNotificationHandler(ResourceUpdatedNotificationSchema, ({ params }) => hear(params.uri));
  client.setNotificationHandler(ToolListChangedNotificationSchema, () => hear('tools'));
  const headers = access.token ? { Authorization: `Bearer ${access.token}` } : {};
  await client.connect(access.url
    ? new StreamableHTTPClientTransport(new URL(access.url), { requestInit: { headers } })
    : new StdioClientTransport(access));
  return connected(client, async (uris) => {
    for (const uri of uris) await client.subscribeResource({ uri });
  });
}
