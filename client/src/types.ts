import type { components } from './api-types.js';

type Schemas = components['schemas'];

/** A stored picture, as the service describes it. `media_url` is stable, and may be stored in messages. */
export type Image = Schemas['ChatImageDto'];

/** A page of a conversation's pictures, newest first. `next_cursor` is `null` on the last page. */
export type ImagePage = { readonly images: readonly Image[]; readonly next_cursor: string | null };

/** A picture, by itself, its number, or its file name (the last part of `media_url`). */
export type ImageName = number | string | Pick<Image, 'id'>;

/** Which form of a picture a URL shows. */
export type Variant = 'original' | 'thumbnail';

/** Whose chat a picture belongs to. */
export type Conversation = { readonly appointmentId: number } | { readonly textSessionId: number };

/** A picture to upload: a `File` or `Blob`; in React Native, what its pickers return. */
export type PictureFile = Blob | { readonly uri: string; readonly name: string; readonly type: string };

/** How much of a picture has left, in bytes. A retry begins again. */
export type Progress = { readonly loaded: number; readonly total: number };
