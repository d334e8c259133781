import { createHash } from 'node:crypto';
import { inflateSync } from 'node:zlib';
import type { BrowserView, Chromium } from '../support/chromium.js';
import type { NamedPicture } from './corpus.js';
import { explanationOf } from './explained.js';
import { type LibvipsView, libvipsView } from './libvips-view.js';
import { isPersonal } from './personal-data.js';

/** Pictures that are prepared and looked at together. */
const BATCH = 128;
/** Examples that are kept of each kind of finding. */
const EXAMPLES = 8;
/** Pixels of a side, beyond which the canvas and the frame decoder of Chromium do not work. */
const MAX_SIDE = 32_767;

/** What the product does with a picture: the bytes it stores, or the reason of the refusal as in the log. */
export type Outcome = { readonly stored: Buffer } | { readonly refusal: string };

type View = { readonly libvips: LibvipsView | undefined; readonly browser: BrowserView | undefined };

export type Counts = {
  pictures: number;
  accepted: number;
  refused: number;
  /** Stored pictures whose bytes are the sent ones. */
  unchanged: number;
  comparedInLibvips: number;
  comparedInChromium: number;
};

/** What was found with some pictures. */
export type Finding = {
  readonly kind: string;
  /** Why it is right, where it is. */
  readonly because: string | undefined;
  count: number;
  readonly examples: NamedPicture[];
};

/** Sends pictures through the product, and compares what two decoders show before and after. */
export class Differential {
  readonly counts: Counts = {
    pictures: 0,
    accepted: 0,
    refused: 0,
    unchanged: 0,
    comparedInLibvips: 0,
    comparedInChromium: 0,
  };
  private readonly found = new Map<string, Finding>();
  /** Many mutants are stored as the same bytes. */
  private readonly views = new Map<string, View>();

  /**
   * @param prepare the product's way from the bytes sent to the bytes stored
   * @param chromium the second decoder, where it is installed
   */
  constructor(
    private readonly prepare: (bytes: Buffer, index: number) => Promise<Outcome>,
    private readonly chromium: Chromium | undefined,
  ) {}

  get findings(): Finding[] {
    return [...this.found.values()].sort((a, b) => b.count - a.count);
  }

  async compare(pictures: Iterable<NamedPicture>): Promise<void> {
    let batch: NamedPicture[] = [];
    for (const picture of pictures) {
      batch.push(picture);
      if (batch.length < BATCH) continue;
      await this.compareBatch(batch);
      batch = [];
    }
    await this.compareBatch(batch);
  }

  private async compareBatch(pictures: readonly NamedPicture[]): Promise<void> {
    const outcomes = await Promise.all(pictures.map(({ bytes }, index) => this.prepare(bytes, index)));
    const stored = outcomes.flatMap((outcome, index) => {
      const picture = pictures[index];
      return 'stored' in outcome && picture ? [{ ...picture, bytes: outcome.stored }] : [];
    });
    await this.look([...pictures, ...stored]);
    for (const [index, picture] of pictures.entries()) {
      const outcome = outcomes[index];
      if (!outcome) continue;
      this.counts.pictures += 1;
      if ('stored' in outcome) await this.judgeStored(picture, outcome.stored);
      else this.judgeRefused(picture, outcome.refusal);
    }
  }

  private async look(pictures: readonly NamedPicture[]): Promise<void> {
    const unseen = new Map<string, NamedPicture>();
    for (const picture of pictures) {
      const key = keyOf(picture);
      if (!this.views.has(key)) unseen.set(key, picture);
    }
    const list = [...unseen.values()];
    const [browser, libvips] = await Promise.all([
      this.chromium?.show(list),
      Promise.all(list.map(({ bytes }) => libvipsView(bytes))),
    ]);
    for (const [index, key] of [...unseen.keys()].entries()) {
      this.views.set(key, { libvips: libvips[index], browser: browser?.[index] });
    }
  }

  private async judgeStored(picture: NamedPicture, stored: Buffer): Promise<void> {
    this.counts.accepted += 1;
    if (stored.equals(picture.bytes)) this.counts.unchanged += 1;
    if (holdsPersonalData(stored)) this.report(picture, 'personal data are stored');
    const before = this.views.get(keyOf(picture));
    const after = this.views.get(keyOf({ ...picture, bytes: stored }));

    this.counts.comparedInLibvips += 1;
    if (!after?.libvips?.isWhole) this.report(picture, 'libvips does not show the stored picture whole');
    else if (before?.libvips?.isWhole && before.libvips.shown !== after.libvips.shown)
      this.report(
        picture,
        `libvips shows another picture: ${difference(before.libvips.shown, after.libvips.shown)}`,
      );

    if (this.chromium) await this.judgeInChromium(picture, stored);
  }

  private async judgeInChromium(picture: NamedPicture, stored: Buffer): Promise<void> {
    this.counts.comparedInChromium += 1;
    const pair = [picture, { ...picture, bytes: stored }];
    let views = pair.map((one) => this.views.get(keyOf(one))?.browser);
    let fault = faultInChromium(views);
    // A busy browser may give up a picture that it shows when it has time.
    if (fault !== undefined) {
      views = (await this.chromium?.show(pair)) ?? [];
      fault = faultInChromium(views);
    }
    if (fault !== undefined) this.report(picture, fault);
  }

  private judgeRefused(picture: NamedPicture, refusal: string): void {
    this.counts.refused += 1;
    const before = this.views.get(keyOf(picture));
    if (
      !before?.libvips?.isWhole ||
      before.browser?.image === undefined ||
      before.browser.frames === undefined
    )
      return;
    this.report(picture, `refused, though shown: ${refusal.replaceAll(/\d+/g, 'n').slice(0, 100)}`);
  }

  private report(picture: NamedPicture, what: string): void {
    const kind = `${picture.format}: ${what}`;
    const because = explanationOf(kind, picture.name);
    const key = `${kind} ${because ?? ''}`;
    const finding = this.found.get(key) ?? { kind, because, count: 0, examples: [] };
    this.found.set(key, finding);
    finding.count += 1;
    if (finding.examples.length < EXAMPLES) finding.examples.push(picture);
  }
}

const keyOf = ({ bytes, format }: NamedPicture): string =>
  `${format} ${createHash('sha256').update(bytes).digest('base64')}`;

const sidesOf = (view: string): number[] => view.split(/[x ]/, 2).map(Number);

/** What Chromium shows otherwise of the stored picture. A picture sent that it does not show whole may be mended. */
function faultInChromium([before, after]: readonly (BrowserView | undefined)[]): string | undefined {
  if (after?.image !== undefined && sidesOf(after.image).some((side) => side > MAX_SIDE)) return undefined;
  if (after?.image === undefined) return 'Chromium does not draw the stored picture';
  if (after.frames === undefined) return 'Chromium does not show the stored picture whole';
  if (before?.image === undefined || before.frames === undefined) return undefined;
  // It stops at a part that it does not understand, and shows the frames before.
  const isMended = before.frames.length < after.frames.length;
  const [first, second] = isMended
    ? [before.frames.slice(0, -1), after.frames]
    : [before.frames, after.frames];
  if (String(first) !== String(second.slice(0, first.length))) return 'Chromium shows other frames';
  // What is drawn of an animation depends on the moment.
  const isAnimation = after.frames.length > 2;
  return before.image !== after.image && !isAnimation ? 'Chromium draws another image' : undefined;
}

/** The names of the fields that differ. */
function difference(before: string, after: string): string {
  const [first, second] = [before, after].map((view) => JSON.parse(view) as Record<string, unknown>);
  return Object.keys({ ...first, ...second })
    .filter((name) => JSON.stringify(first?.[name]) !== JSON.stringify(second?.[name]))
    .join(', ');
}

/** Also in the compressed colour profile of a PNG. */
function holdsPersonalData(stored: Buffer): boolean {
  if (isPersonal(stored)) return true;
  const chunk = stored.indexOf('iCCPicc\0\0', 0, 'latin1');
  return chunk !== -1 && isPersonal(inflateSync(stored.subarray(chunk + 9)));
}
