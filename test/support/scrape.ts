/** A sample of a scrape. */
export type Sample = {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
};

/** The samples of a text in the format of Prometheus. */
export function samplesOf(text: string): Sample[] {
  return text
    .split('\n')
    .filter((line) => line !== '' && !line.startsWith('#'))
    .map((line) => {
      const [, name = '', labels = '', value = ''] =
        /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/.exec(line) ?? [];
      if (name === '') throw new Error(`This is no sample: ${line}`);
      const pairs = [...labels.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)];
      return {
        name,
        labels: Object.fromEntries(pairs.map(([, label = '', text = '']) => [label, text])),
        value: Number(value),
      };
    });
}

/** A metric in a PromQL expression: its name, and the labels that the expression selects or groups by. */
export type Selection = {
  readonly metric: string;
  readonly labels: readonly string[];
  readonly values: Readonly<Record<string, string>>;
};

/** The metrics in a PromQL expression. */
export function selectionsOf(expression: string): Selection[] {
  const grouped = [...expression.matchAll(/\bby \(([^)]*)\)/g)].flatMap(([, labels = '']) =>
    labels.split(/[\s,]+/),
  );
  return [...expression.matchAll(/\b((?:chat_images|nodejs|process)_\w+)(?:\{([^}]*)\})?/g)].map(
    ([, metric = '', matchers = '']) => {
      const pairs = [...matchers.matchAll(/(\w+)(=~|!~|!=|=)"([^"]*)"/g)];
      return {
        metric,
        labels: [...pairs.map(([, label = '']) => label), ...grouped],
        values: Object.fromEntries(
          pairs.filter(([, , how]) => how === '=').map(([, label = '', , value = '']) => [label, value]),
        ),
      };
    },
  );
}
