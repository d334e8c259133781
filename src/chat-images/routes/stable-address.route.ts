import { Inject, Injectable } from '@nestjs/common';
import type { Request } from 'express';
import type { RouteAccess } from '../../access/access.guard.js';
import {
  type Decision,
  grantedConversation,
  type GrantedImage,
  grantedOf,
  type ImageAddress,
  ImageAccess,
  imageIdOf,
  type LinkOpener,
  type RecordedAccess,
} from '../../access/image-access.js';
import type { AuthenticatedUser } from '../../auth/token-verifier.js';
import { PHASE_RULES, type PhaseRules } from '../../config/migration-phase.js';
import { SETTINGS, type Settings } from '../../config/settings.js';
import { AppError } from '../../errors/app-error.js';
import { METRICS, type Metrics } from '../../observability/metrics.js';
import { clientNetwork } from '../../rate-limits/client-network.js';
import { RateLimits } from '../../rate-limits/rate-limits.js';
import type { Variant } from '../entities/chat-image.entity.js';
import { ImageUrls } from '../image-urls.js';
import { type ConversationImageAddress, imageAddress } from './image-name.js';
import { wantedVariant } from './wanted-variant.js';

/** The public place of an old picture that has not been imported yet. */
export type LegacyAddress = { readonly legacyUrl: string };

const MAX_APP_VERSION_LENGTH = 100;

/** The target of a stable address. GET records the opening, HEAD does not. */
@Injectable()
abstract class StableAddress<Image extends GrantedImage> implements RouteAccess<Image | LegacyAddress> {
  private readonly phase: PhaseRules;

  constructor(
    protected readonly access: ImageAccess,
    private readonly limits: RateLimits,
    @Inject(SETTINGS) protected readonly settings: Settings,
  ) {
    this.phase = PHASE_RULES[settings.migration.phase];
  }

  /**
   * With a token the permission rule applies in every phase. For a picture that has not been imported, the rule applies to
   * the conversation of its path.
   */
  async grant(request: Request, user: AuthenticatedUser): Promise<Image | LegacyAddress> {
    const variant = wantedVariant(request);
    const address = imageAddress(request.params);
    const decision = await this.decide(user, address, variant);
    request.imageId = imageIdOf(decision);
    if ('granted' in decision || decision.refusal !== 'IMAGE_NOT_FOUND') return grantedOf(decision);
    const { legacyUrl, conversation } = this.legacyAddressOf(address);
    grantedConversation(
      await this.access.decideConversation(user, conversation),
      conversation,
      'see the images of',
    );
    return { legacyUrl };
  }

  /** Without a token an address opens only in the phases of the migration that say so. */
  async grantByLink(request: Request): Promise<Image | LegacyAddress> {
    if (this.phase.withoutToken !== 'opened by link') throw new AppError('UNAUTHENTICATED');
    const variant = this.settings.thumbnails ? wantedVariant(request) : 'original';
    const opener: LinkOpener = { appVersion: appVersionOf(request), network: clientNetwork(request) };
    await this.limits.consume('link-opens', opener.network);
    const address = imageAddress(request.params);
    const image = address && (await this.openByLink(address, opener, variant));
    if (image) {
      request.imageId = image.id;
      return image;
    }
    const { legacyUrl } = this.legacyAddressOf(address);
    await this.redirected(opener);
    return { legacyUrl };
  }

  protected abstract decide(
    user: AuthenticatedUser,
    address: ImageAddress | undefined,
    variant: Variant,
  ): Promise<Decision<Image>>;

  /** Nobody without a token makes the service work: a missing thumbnail is not made. */
  protected abstract openByLink(
    address: ImageAddress,
    opener: LinkOpener,
    variant: Variant,
  ): Promise<Image | undefined>;

  protected abstract redirected(opener: LinkOpener): Promise<void>;

  /** @throws AppError IMAGE_NOT_FOUND where the phase redirects nobody */
  private legacyAddressOf(
    address: ConversationImageAddress | undefined,
  ): LegacyAddress & Pick<ConversationImageAddress, 'conversation'> {
    const { legacyMediaUrl } = this.settings.migration;
    if (!address || legacyMediaUrl === undefined || this.phase.notHereYet !== 'legacy address')
      throw new AppError('IMAGE_NOT_FOUND');
    return { legacyUrl: `${legacyMediaUrl}/${address.filePath}`, conversation: address.conversation };
  }
}

/** The image at `appointment_{appointmentId}/{filename}` or `text_session_{textSessionId}/{filename}`. The response redirects to its URL, so the opening is recorded. */
@Injectable()
export class StableAddressRoute extends StableAddress<RecordedAccess> {
  constructor(
    access: ImageAccess,
    limits: RateLimits,
    @Inject(SETTINGS) settings: Settings,
    private readonly urls: ImageUrls,
    @Inject(METRICS) private readonly metrics: Metrics,
  ) {
    super(access, limits, settings);
  }

  override async grantByLink(request: Request): Promise<RecordedAccess | LegacyAddress> {
    const opened = await super.grantByLink(request);
    const result = 'legacyUrl' in opened ? 'redirected' : 'opened';
    this.metrics?.openedWithoutToken(this.settings.migration.phase, result);
    return opened;
  }

  protected override decide(
    user: AuthenticatedUser,
    image: ImageAddress | undefined,
    variant: Variant,
  ): Promise<Decision<RecordedAccess>> {
    return this.urls.record(user, { image, variant });
  }

  protected override openByLink(
    address: ImageAddress,
    opener: LinkOpener,
    variant: Variant,
  ): Promise<RecordedAccess | undefined> {
    return this.access.openByLink(address, opener, variant);
  }

  protected override redirected(opener: LinkOpener): Promise<void> {
    return this.access.countRedirect(opener);
  }
}

/** The same image, for a HEAD. The response holds no address, so nothing is recorded. */
@Injectable()
export class StableAddressHeadRoute extends StableAddress<GrantedImage> {
  protected override decide(
    user: AuthenticatedUser,
    address: ImageAddress | undefined,
  ): Promise<Decision<GrantedImage>> {
    return this.access.decide(user, address);
  }

  protected override openByLink(
    address: ImageAddress,
    opener: LinkOpener,
  ): Promise<GrantedImage | undefined> {
    return this.access.decideByLink(address, opener);
  }

  protected override async redirected(): Promise<void> {}
}

function appVersionOf(request: Request): string {
  const named = [request.get('X-App-Version'), request.get('User-Agent')].map((text) => text?.trim());
  const version = named.find((text) => text !== undefined && text !== '') ?? 'unknown';
  // Headers are Latin-1 on the wire. A version has printable characters only.
  return version.replaceAll(/[^\x20-\x7e]/g, '?').slice(0, MAX_APP_VERSION_LENGTH);
}
