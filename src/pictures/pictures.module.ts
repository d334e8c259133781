import { Module } from '@nestjs/common';
import { ImagePreparer } from './image-preparer.js';
import { ImageProcesses } from './image-processes.js';

@Module({ providers: [ImagePreparer, ImageProcesses], exports: [ImagePreparer, ImageProcesses] })
export class PicturesModule {}
