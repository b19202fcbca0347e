import type { Config } from '../../config/config.ts';
import { gateEnabled } from '../../config/feature-gates.ts';
import type { ServerSettings } from '../../server/contracts.ts';

/** The server's settings out of the configuration. */
export function serverSettings(config: Config): ServerSettings {
  const kc = config.kubelet;
  return {
    address: kc.address,
    port: kc.port,
    readOnlyPort: kc.readOnlyPort,
    healthzBindAddress: kc.healthzBindAddress,
    healthzPort: kc.healthzPort,
    tlsMinVersion: kc.tlsMinVersion || undefined,
    tlsCipherSuites: kc.tlsCipherSuites.length > 0 ? kc.tlsCipherSuites : undefined,
    tlsCurvePreferences: kc.tlsCurvePreferences,
    clientCaFile: kc.authentication.x509?.clientCAFile || undefined,
    anonymous: kc.authentication.anonymous?.enabled === true,
    tokenWebhook: kc.authentication.webhook?.enabled === true && config.kubeconfig !== undefined,
    tokenTtlMs: kc.authentication.webhook?.cacheTTL ?? 120_000,
    authorizationMode: kc.authorization.mode === 'AlwaysAllow' ? 'AlwaysAllow' : 'Webhook',
    authorizedTtlMs: kc.authorization.webhook?.cacheAuthorizedTTL ?? 300_000,
    unauthorizedTtlMs: kc.authorization.webhook?.cacheUnauthorizedTTL ?? 30_000,
    enableDebuggingHandlers: kc.enableDebuggingHandlers,
    enableSystemLogHandler: kc.enableSystemLogHandler,
    enableDebugFlagsHandler: kc.enableDebugFlagsHandler,
    streamingConnectionIdleTimeoutMs: kc.streamingConnectionIdleTimeout,
    splitLogStreams: gateEnabled(kc.featureGates, 'PodLogsQuerySplitStreams'),
  };
}
