// The SDK's second line: `@modelcontextprotocol/client`, in the era that `mode` asks for.

import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
import { StdioClientTransport } from '@modelcontextprotocol/client/stdio';
import { connected } from './connected.mjs';

const MODERN = '2026-07-28';

export async function connect(access, { mode, ask, hear }) {
  const client = new Client({ name: 'story', version: '1' }, {
    capabilities: ask ? { elicitation: {} } : {},
    versionNegotiation: { mode: mode === 'pin' ? { pin: MODERN } : mode },
  });
  if (ask) client.setRequestHandler('elicitation/create', ({ params }) => ask(params.message));
  client.setNotificationHandler('notifications/resources/updated', ({ params }) => hear(params.uri));
  client.setNotificationHandler('notifications/tools/list_changed', () => hear('tools'));
  const headers = access.token ? { Authorization: `Bearer ${access.token}` } : {};
  await client.connect(access.url
    ? new StreamableHTTPClientTransport(new URL(access.url), { requestInit: { headers } })
    : new StdioClientTransport(access));
  return connected(client, async (uris) => {
    if (client.getNegotiatedProtocolVersion() === MODERN) {
      await client.listen({ toolsListChanged: true, resourceSubscriptions: uris });
    } else {
      for (const uri of uris) await client.subscribeResource({ uri });
    }
  });
}
