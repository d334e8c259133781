import type { LoggerService } from '@nestjs/common';
import { type DestinationStream, type Logger as PinoLogger, type LoggerOptions, pino } from 'pino';
import type { Settings } from '../config/settings.js';
import { traceIdOf } from './spans.js';

/** DI token of the process's pino logger. */
export const LOGGER = Symbol('Logger');

/**
 * Writes one JSON object per line; with `pretty`, coloured text for a terminal.
 *
 * @param destination standard output if left out
 */
export function createLogger(
  level: Settings['logLevel'],
  { pretty = false, destination }: { pretty?: boolean; destination?: DestinationStream } = {},
): PinoLogger {
  // Every line of a request names its trace.
  const mixin = (): object => {
    const traceId = traceIdOf();
    return traceId === undefined ? {} : { traceId };
  };
  if (pretty)
    return pino({
      level,
      base: null,
      mixin,
      transport: { target: 'pino-pretty', options: { singleLine: true } },
    });
  const options: LoggerOptions = {
    level,
    base: null,
    mixin,
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label) => ({ level: label }) },
  };
  return destination ? pino(options, destination) : pino(options);
}

/** Passes NestJS' messages to the process's logger. */
export class NestLogger implements LoggerService {
  constructor(private readonly logger: PinoLogger) {}

  /** Level `debug`: at start, NestJS logs every route and module, which only developers need. */
  log(message: unknown, ...rest: unknown[]): void {
    this.write('debug', message, rest);
  }

  error(message: unknown, ...rest: unknown[]): void {
    this.write('error', message, rest);
  }

  warn(message: unknown, ...rest: unknown[]): void {
    this.write('warn', message, rest);
  }

  debug(message: unknown, ...rest: unknown[]): void {
    this.write('debug', message, rest);
  }

  verbose(message: unknown, ...rest: unknown[]): void {
    this.write('trace', message, rest);
  }

  fatal(message: unknown, ...rest: unknown[]): void {
    this.write('fatal', message, rest);
  }

  /** NestJS passes the logger's name as the last argument, and the stack of an error before it. */
  private write(
    level: 'fatal' | 'error' | 'warn' | 'info' | 'debug' | 'trace',
    message: unknown,
    rest: unknown[],
  ): void {
    const context = rest.at(-1);
    // A failure at start is thrown as well. The command prints one line with advice.
    if (context === 'ExceptionHandler' || context === 'TypeOrmModule') return;
    const stack = rest.length > 1 ? rest[0] : undefined;
    this.logger[level](
      {
        ...(typeof context === 'string' ? { context } : {}),
        ...(typeof stack === 'string' ? { stack } : {}),
        ...(message instanceof Error ? { err: message } : {}),
      },
      message instanceof Error ? message.message : String(message),
    );
  }
}
