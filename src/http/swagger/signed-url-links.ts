/** The part of Swagger UI that the plugin uses. */
type SwaggerUi = {
  readonly React: {
    createElement(type: unknown, props: object | null, ...children: readonly unknown[]): unknown;
  };
};

type ResponseBodyProps = { readonly content?: unknown };
type Component<Props> = (props: Props) => unknown;

/** The part of a Swagger UI plugin's result that this one has. */
type Plugin = {
  readonly wrapComponents: {
    readonly responseBody: (Original: unknown, ui: SwaggerUi) => Component<ResponseBodyProps>;
  };
};

/**
 * A plugin of Swagger UI: below an answer that holds signed URLs, a link to each, since the page shows the answer itself
 * as plain text.
 *
 * The page gets the text of this function, so it uses nothing of this file but types.
 */
export function signedUrlLinks(): Plugin {
  type Link = { readonly field: string; readonly url: string };

  const isSigned = (text: string): boolean => /^https?:\/\/[^?]+\?(.*&)?(X-Amz-)?Signature=/.test(text);

  const linksIn = (value: unknown, field: string): readonly Link[] => {
    if (typeof value === 'string') return isSigned(value) ? [{ field, url: value }] : [];
    if (Array.isArray(value)) return value.flatMap((item, index) => linksIn(item, `${field}[${index}]`));
    if (typeof value !== 'object' || value === null) return [];
    return Object.entries(value).flatMap(([name, item]) => linksIn(item, field ? `${field}.${name}` : name));
  };

  const linksOf = (content: unknown): readonly Link[] => {
    try {
      return typeof content === 'string' ? linksIn(JSON.parse(content), '') : [];
    } catch {
      return [];
    }
  };

  return {
    wrapComponents: {
      responseBody:
        (Original, { React }) =>
        (props) => {
          const links = linksOf(props.content).map(({ field, url }) =>
            React.createElement(
              'li',
              { key: field },
              React.createElement(
                'a',
                { href: url, target: '_blank', rel: 'noopener noreferrer' },
                `Open ${field}`,
              ),
            ),
          );
          return React.createElement(
            'div',
            null,
            React.createElement(Original, props),
            links.length > 0 && React.createElement('ul', { className: 'signed-urls' }, links),
          );
        },
    },
  };
}
