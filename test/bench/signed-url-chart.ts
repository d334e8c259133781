/** A bar of the chart. */
export type Bar = { readonly name: string; readonly value: number; readonly isService: boolean };

const WIDTH = 760;
const LABELS = 250;
const FIGURES = 170;
const ROW = 34;
const BAR_HEIGHT = 20;
const TOP = 56;

/**
 * Horizontal bars as SVG, with the factor between the service and each server. Text and bars are readable on light and on
 * dark pages.
 */
export function barChart(title: string, caption: string, bars: readonly Bar[]): string {
  const height = TOP + bars.length * ROW + 12;
  const longest = Math.max(...bars.map(({ value }) => value));
  const service = bars.find(({ isService }) => isService)?.value ?? NaN;
  const rows = bars.map(({ name, value, isService }, index) => {
    const y = TOP + index * ROW;
    const width = ((WIDTH - LABELS - FIGURES) * value) / longest;
    const ratio = isService ? '' : `  (${(service / value).toFixed(2)} ×)`;
    const figure = `${Math.round(value).toLocaleString('en')}${ratio}`;
    return [
      `  <text x="${LABELS - 12}" y="${y + 15}" text-anchor="end"${isService ? ' class="service"' : ''}>${escape(name)}</text>`,
      `  <rect x="${LABELS}" y="${y}" width="${width.toFixed(1)}" height="${BAR_HEIGHT}" rx="3"${isService ? ' class="service"' : ''}/>`,
      `  <text x="${(LABELS + width + 8).toFixed(1)}" y="${y + 15}"${isService ? ' class="service"' : ''}>${figure}</text>`,
    ].join('\n');
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" height="${height}" role="img" aria-label="${escape(title)}">
  <style>
    text { font: 14px system-ui, 'Segoe UI', Helvetica, Arial, sans-serif; fill: #24292f }
    text.title { font-size: 16px; font-weight: 600 }
    text.caption { font-size: 12px; fill: #57606a }
    text.service { font-weight: 600 }
    rect { fill: #8c959f }
    rect.service { fill: #1a7f37 }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3 }
      text.caption { fill: #9198a1 }
      rect { fill: #6e7681 }
      rect.service { fill: #2ea043 }
    }
  </style>
  <text class="title" x="12" y="22">${escape(title)}</text>
  <text class="caption" x="12" y="42">${escape(caption)}</text>
${rows.join('\n')}
</svg>
`;
}

function escape(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('"', '&quot;');
}
