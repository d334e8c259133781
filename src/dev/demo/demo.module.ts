import { Module } from '@nestjs/common';
import { RateLimitsModule } from '../../rate-limits/rate-limits.module.js';
import { DemoController } from './demo.controller.js';

export { serveDemoPage } from './demo-page.js';

/** The demo: a chat in the browser, for a patient, a doctor and an outsider. */
@Module({ imports: [RateLimitsModule], controllers: [DemoController] })
export class DemoModule {}
