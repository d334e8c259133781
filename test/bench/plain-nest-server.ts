/*
 * The signed URL in the usual way of NestJS: passport, a repository per table, the SDK's `getSignedUrl`, and every
 * default of the framework. It logs no request.
 */
import { GetObjectCommand, S3Client } from '@aws-sdk/client-s3';
import { getSignedUrl } from '@aws-sdk/s3-request-presigner';
import {
  Controller,
  ForbiddenException,
  Get,
  Header,
  Injectable,
  Module,
  NotFoundException,
  Param,
  Req,
  UnauthorizedException,
  UseGuards,
} from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { AuthGuard, PassportModule, PassportStrategy } from '@nestjs/passport';
import { InjectRepository, TypeOrmModule } from '@nestjs/typeorm';
import { ExtractJwt, Strategy } from 'passport-jwt';
import { Repository } from 'typeorm';
import { Appointment } from '../../src/conversations/appointment.entity.js';
import { ChatImageAccess } from '../../src/chat-images/entities/chat-image-access.entity.js';
import { ChatImage } from '../../src/chat-images/entities/chat-image.entity.js';
import { toTimestamp } from '../../src/timestamp.js';
import { User } from '../../src/conversations/user.entity.js';

const { PORT, DATABASE_URL = '', JWT_SECRET = '' } = process.env;
const { DO_SPACES_KEY = '', DO_SPACES_SECRET = '', DO_SPACES_REGION = '' } = process.env;
const { DO_SPACES_ENDPOINT = '', DO_SPACES_BUCKET = '' } = process.env;
const EXPIRES_SECONDS = 3600;

type SignedUrl = { readonly url: string; readonly expires_in: number; readonly expires_at: string };

@Injectable()
class JwtStrategy extends PassportStrategy(Strategy) {
  constructor(@InjectRepository(User) private readonly users: Repository<User>) {
    super({
      jwtFromRequest: ExtractJwt.fromAuthHeaderAsBearerToken(),
      secretOrKey: JWT_SECRET,
      algorithms: ['HS256'],
    });
  }

  async validate({ sub }: { readonly sub: string }): Promise<User> {
    const user = await this.users.findOneBy({ id: Number(sub) });
    if (!user) throw new UnauthorizedException();
    return user;
  }
}

@Injectable()
class ChatImagesService {
  private readonly s3 = new S3Client({
    region: DO_SPACES_REGION,
    endpoint: DO_SPACES_ENDPOINT,
    credentials: { accessKeyId: DO_SPACES_KEY, secretAccessKey: DO_SPACES_SECRET },
    // The defaults of the SDK add checksums to the URL, which would differ from the other servers.
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
  });

  constructor(
    @InjectRepository(ChatImage) private readonly images: Repository<ChatImage>,
    @InjectRepository(Appointment) private readonly appointments: Repository<Appointment>,
    @InjectRepository(ChatImageAccess) private readonly accesses: Repository<ChatImageAccess>,
  ) {}

  async signedUrl(userId: number, id: string): Promise<SignedUrl> {
    const image = await this.images.findOneBy({
      ...(/^\d+$/.test(id) ? { id: Number(id) } : { filename: id }),
      state: 'stored',
    });
    if (!image) throw new NotFoundException('Image not found.');
    const appointment = await this.appointments.findOneBy({ id: image.appointmentId ?? 0 });
    if (!appointment) throw new NotFoundException('Appointment not found.');
    if (userId !== appointment.patientId && userId !== appointment.doctorId) throw new ForbiddenException();
    await this.accesses.save({ chatImageId: image.id, accessedBy: userId });
    const command = new GetObjectCommand({ Bucket: DO_SPACES_BUCKET, Key: image.filePath });
    const url = await getSignedUrl(this.s3, command, { expiresIn: EXPIRES_SECONDS });
    const expiresAt = new Date(Math.floor(Date.now() / 1000 + EXPIRES_SECONDS) * 1000);
    return { url, expires_in: EXPIRES_SECONDS, expires_at: toTimestamp(expiresAt) };
  }
}

@Controller('api/chat-images')
class ChatImagesController {
  constructor(private readonly chatImages: ChatImagesService) {}

  @Get(':id/signed-url')
  @Header('Cache-Control', 'no-store')
  @UseGuards(AuthGuard('jwt'))
  async signedUrl(
    @Req() { user }: { readonly user: User },
    @Param('id') id: string,
  ): Promise<{ success: true; data: SignedUrl }> {
    return { success: true, data: await this.chatImages.signedUrl(user.id, id) };
  }
}

const entities = [User, Appointment, ChatImage, ChatImageAccess];

@Module({
  imports: [
    PassportModule,
    TypeOrmModule.forRoot({ type: 'postgres', url: DATABASE_URL, entities, parseInt8: true }),
    TypeOrmModule.forFeature(entities),
  ],
  controllers: [ChatImagesController],
  providers: [ChatImagesService, JwtStrategy],
})
class AppModule {}

const app = await NestFactory.create(AppModule);
await app.listen(Number(PORT), '127.0.0.1');
process.once('SIGTERM', () => process.exit(0));
