import prettier from 'eslint-config-prettier';
import tseslint from 'typescript-eslint';

/** The rooms of `src/`. Each may import from those above it, and from none below. */
const ROOMS = [
  'config',
  'errors',
  'observability',
  'database',
  'rate-limits',
  'auth',
  'storage',
  'pictures',
  'conversations',
  'chat-images/entities',
  'access',
  'uploads',
  'chat-images',
  'upkeep',
  'import',
  'http',
  'health',
  'check',
  'commands',
  'dev',
];

const roomRules = ROOMS.map((room, index) => ({
  files: [`src/${room}/**/*.ts`],
  // The tests of a room may use what they need.
  ignores: ['**/*.spec.ts', ...(room === 'chat-images' ? ['src/chat-images/entities/**'] : [])],
  rules: {
    'no-restricted-imports': [
      'error',
      {
        patterns: ROOMS.slice(index + 1).map((below) => ({
          // `entities/` lies within the room that is named after the product, but above it.
          regex: `^(\\.\\./)+${below}/${below === 'chat-images' ? '(?!entities/)' : ''}`,
          message: `${room}/ may not import from ${below}/: a folder imports only from those above it in ROOMS.`,
        })),
      },
    ],
  },
}));

export default tseslint.config(
  { ignores: ['**/dist', 'coverage', '.local', 'client/src/api-types.ts'] },
  {
    files: ['**/*.ts', '**/*.tsx'],
    extends: [...tseslint.configs.strictTypeChecked, ...tseslint.configs.stylisticTypeChecked],
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    rules: {
      '@typescript-eslint/explicit-module-boundary-types': 'error',
      // Either is fine; merging with a library's declarations needs an interface.
      '@typescript-eslint/consistent-type-definitions': 'off',
      '@typescript-eslint/no-confusing-void-expression': ['error', { ignoreArrowShorthand: true }],
      // Modules of NestJS are classes without members.
      '@typescript-eslint/no-extraneous-class': [
        'error',
        { allowWithDecorator: true, allowStaticOnly: true },
      ],
      '@typescript-eslint/no-empty-function': ['error', { allow: ['asyncMethods'] }],
      // Options of NestJS are documented as classes and given as literals.
      '@typescript-eslint/no-unsafe-class-instance-assignment': 'off',
      '@typescript-eslint/no-namespace': ['error', { allowDeclarations: true }],
      '@typescript-eslint/restrict-template-expressions': ['error', { allowNumber: true }],
      '@typescript-eslint/no-unused-vars': ['error', { argsIgnorePattern: '^_', ignoreRestSiblings: true }],
      // A class that a decorated constructor or handler takes must be imported as a value: with `import type` its
      // metadata is lost, and injection and validation with it. TypeScript knows which ones; so does this rule.
      '@typescript-eslint/consistent-type-imports': ['error', { fixStyle: 'inline-type-imports' }],
    },
  },
  ...roomRules,
  prettier,
);
