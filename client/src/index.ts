export {
  ChatImages,
  type ChatImagesOptions,
  type ListOptions,
  type UploadOptions,
  type UrlOptions,
} from './chat-images.js';
export type { TokenSource } from './connection.js';
export {
  ChatImagesError,
  type ClientErrorCode,
  type ErrorCode,
  type FieldErrors,
  type ServiceErrorCode,
} from './errors.js';
export { indexedDbStorage } from './indexed-db-storage.js';
export { type HttpRequest, type HttpResponse, send, type Send } from './send.js';
export type { Conversation, Image, ImageName, ImagePage, PictureFile, Progress, Variant } from './types.js';
export { type QueuedUpload, UploadQueue } from './upload-queue.js';
export { memoryStorage, type StoredUpload, type UploadStorage } from './upload-storage.js';
export type { Timing } from './waiting.js';
