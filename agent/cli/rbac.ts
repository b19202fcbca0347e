/**
 * What lets nodes watch what Services are made of. A node's own credentials may read Services but not EndpointSlices and
 * ServiceCIDRs; kube-proxy's ClusterRole, which every cluster has, may.
 */
const binding = `# Lets nodes program Services with their own credentials (keelson run without --proxy-kubeconfig):
#   keelson rbac | kubectl apply -f -
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: keelson:node-proxier
subjects:
- apiGroup: rbac.authorization.k8s.io
  kind: Group
  name: system:nodes
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: system:node-proxier
`;

/** `keelson rbac`: prints the one object that a cluster needs for nodes that program Services themselves. */
export async function rbac(args: readonly string[]): Promise<number> {
  if (args.length > 0) {
    process.stdout.write(
      `Usage: keelson rbac\n\nPrints the ClusterRoleBinding with which nodes may program Services themselves. Apply it once a cluster.\n`,
    );
    return args[0] === '--help' || args[0] === '-h' ? 0 : 2;
  }
  process.stdout.write(binding);
  return 0;
}
