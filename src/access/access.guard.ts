import {
  type CanActivate,
  createParamDecorator,
  type ExecutionContext,
  Injectable,
  SetMetadata,
  type Type,
} from '@nestjs/common';
import { ModuleRef, Reflector } from '@nestjs/core';
import type { Request } from 'express';
import { bearerToken } from '../auth/jwt.strategy.js';
import { isPublic } from '../auth/public.decorator.js';
import { type AuthenticatedUser, TokenVerifier } from '../auth/token-verifier.js';
import { AppError } from '../errors/app-error.js';
import { inSpan, isTraced } from '../observability/spans.js';

/** The access check of a route: finds the subject in the request, asks ImageAccess, and rejects with the refusal's AppError. */
export interface RouteAccess<Granted> {
  /** @returns what the handler gets */
  grant(request: Request, user: AuthenticatedUser): Promise<Granted>;

  /** The same for a request without a token. Routes without this method need a token. */
  grantByLink?(request: Request): Promise<Granted>;
}

type GrantedRequest = Request & { granted?: unknown };

type Handler<Granted> = (granted: Granted, ...rest: never[]) => unknown;

export const ACCESS = 'access';

/**
 * Opens a route to whom the class grants its subject, and to nobody else. What was granted is the handler's first argument,
 * decorated with {@link Granted}: the compiler compares the types.
 */
export function Access<Granted>(
  route: Type<RouteAccess<Granted>>,
): <H extends Handler<Granted>>(
  target: object,
  name: string,
  descriptor: TypedPropertyDescriptor<H>,
) => void {
  return (target, name, descriptor) => SetMetadata(ACCESS, route)(target, name, descriptor);
}

/** The subject that the class of {@link Access} has granted. */
export const Granted = createParamDecorator((_: unknown, context: ExecutionContext): unknown => {
  const request = context.switchToHttp().getRequest<GrantedRequest>();
  if (!('granted' in request)) throw new Error('@Granted is used on a route without @Access.');
  return request.granted;
});

/**
 * The one place that enforces who may see or send an image. It is the last of the global guards. A route without `@Access`
 * and without `@Public` is refused.
 *
 * Rejects with UNAUTHENTICATED, also for a user who was deleted, with FORBIDDEN, and with what the route's class throws.
 */
@Injectable()
export class AccessGuard implements CanActivate {
  private readonly routes = new Map<Type<RouteAccess<unknown>>, RouteAccess<unknown>>();

  constructor(
    private readonly reflector: Reflector,
    private readonly modules: ModuleRef,
    private readonly tokens: TokenVerifier,
  ) {}

  canActivate(context: ExecutionContext): boolean | Promise<boolean> {
    const access = this.reflector.get<Type<RouteAccess<unknown>> | undefined>(ACCESS, context.getHandler());
    if (!access) {
      if (isPublic(this.reflector, context)) return true;
      throw new AppError('FORBIDDEN');
    }
    const request = context.switchToHttp().getRequest<GrantedRequest>();
    const route = this.routeOf(access);
    // A request without a trace needs no closure.
    const decided = isTraced()
      ? inSpan('decide', () => this.grant(route, request))
      : this.grant(route, request);
    return decided.then(
      (granted) => {
        request.granted = granted;
        return true;
      },
      (error: unknown) => {
        if (error instanceof AppError && error.code === 'UNAUTHENTICATED')
          this.tokens.forget(bearerToken(request) ?? '');
        throw error;
      },
    );
  }

  private grant(route: RouteAccess<unknown>, request: Request): Promise<unknown> {
    const { user } = request;
    if (user) return route.grant(request, user);
    return route.grantByLink?.(request) ?? Promise.reject(new AppError('UNAUTHENTICATED'));
  }

  private routeOf(access: Type<RouteAccess<unknown>>): RouteAccess<unknown> {
    const known = this.routes.get(access);
    if (known) return known;
    const route = this.modules.get(access, { strict: false });
    this.routes.set(access, route);
    return route;
  }
}
