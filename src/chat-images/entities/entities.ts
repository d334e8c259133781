import type { DataSourceOptions } from 'typeorm';
import { Appointment } from '../../conversations/appointment.entity.js';
import { TextSession } from '../../conversations/text-session.entity.js';
import { User } from '../../conversations/user.entity.js';
import { ChatImageAccess } from './chat-image-access.entity.js';
import { ChatImageImport } from './chat-image-import.entity.js';
import { ChatImageLinkOpen } from './chat-image-link-open.entity.js';
import { ChatImageTombstone } from './chat-image-tombstone.entity.js';
import { ChatImageUploadKey } from './chat-image-upload-key.entity.js';
import { ChatImage } from './chat-image.entity.js';

/** All tables that the service reads or writes. */
export const ENTITIES = [
  User,
  Appointment,
  TextSession,
  ChatImage,
  ChatImageAccess,
  ChatImageImport,
  ChatImageLinkOpen,
  ChatImageTombstone,
  ChatImageUploadKey,
] satisfies DataSourceOptions['entities'];
