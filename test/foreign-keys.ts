import { join } from 'node:path';
import { isBinaryExpression, isDeleteExpression, isElementAccessExpression, type Node, SyntaxKind } from 'typescript/unstable/ast';
import { API, TypeFlags } from 'typescript/unstable/sync';

/** Where the product looks into an object by a name that is not known when it is written. */
export interface ForeignKeyUse {
  readonly file: string;
  readonly line: number;
  readonly text: string;
}

/**
 * Every `map[name]` and `name in map` under these folders whose name may be any string, as the type checker knows it: constants and unions of literals are not
 * foreign, and indexes of arrays are no names. `delete map[name]` touches own entries alone. TypeScript's API takes two seconds for the whole project.
 */
export function foreignKeyUses(repository: string, folders: readonly string[]): ForeignKeyUse[] {
  const api = new API({ cwd: repository });
  try {
    const project = api.updateSnapshot({ openProjects: [join(repository, 'tsconfig.json')] }).getProjects()[0];
    if (project === undefined) throw new Error('TypeScript does not find the project');
    const { program, checker } = project;
    const uses: ForeignKeyUse[] = [];
    for (const path of program.getSourceFileNames()) {
      const file = path.slice(repository.length + 1);
      if (!folders.some((folder) => file.startsWith(`${folder}/`)) || file.includes('/generated/')) continue;
      const source = program.getSourceFile(path);
      if (source === undefined) throw new Error(`TypeScript does not know ${path}`);
      const found: { node: Node; key: Node }[] = [];
      const visit = (node: Node): void => {
        if (isElementAccessExpression(node)) found.push({ node, key: node.argumentExpression });
        else if (isBinaryExpression(node) && node.operatorToken.kind === SyntaxKind.InKeyword) found.push({ node, key: node.left });
        if (isDeleteExpression(node)) node.expression.forEachChild(visit);
        else node.forEachChild(visit);
      };
      visit(source);
      const keys = checker.getTypeAtLocation(found.map(({ key }) => key));
      for (const [i, { node }] of found.entries()) {
        if (((keys[i]?.flags ?? 0) & (TypeFlags.String | TypeFlags.TemplateLiteral | TypeFlags.Any)) === 0) continue;
        const line = source.text.slice(0, node.end).split('\n').length;
        uses.push({ file, line, text: source.text.slice(node.pos, node.end).trim() });
      }
    }
    return uses;
  } finally {
    api.close();
  }
}
