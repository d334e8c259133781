/** The tables of a Laravel backend on PostgreSQL, as its migrations create them, with a few rows. */
export const LARAVEL_TABLES = `
  CREATE TABLE users (
    id bigserial PRIMARY KEY, first_name varchar(255) NOT NULL DEFAULT '', email varchar(255),
    user_type varchar(255) NOT NULL DEFAULT 'patient', remember_token varchar(100),
    created_at timestamp(0) without time zone, updated_at timestamp(0) without time zone
  );
  CREATE TABLE appointments (
    id bigserial PRIMARY KEY,
    patient_id bigint NOT NULL, doctor_id bigint NOT NULL,
    status smallint NOT NULL DEFAULT 0, reason text,
    created_at timestamp(0) without time zone, updated_at timestamp(0) without time zone,
    CONSTRAINT appointments_patient_id_foreign FOREIGN KEY (patient_id) REFERENCES users (id) ON DELETE CASCADE
  );
  CREATE TABLE chat_images (
    id bigserial NOT NULL,
    appointment_id bigint NOT NULL,
    file_path varchar(255) NOT NULL,
    filename varchar(255) NOT NULL,
    uploaded_by bigint NOT NULL,
    size integer NOT NULL,
    mime_type varchar(255) NOT NULL,
    created_at timestamp(0) without time zone NULL,
    updated_at timestamp(0) without time zone NULL
  );
  ALTER TABLE chat_images ADD PRIMARY KEY (id);
  ALTER TABLE chat_images ADD CONSTRAINT chat_images_appointment_id_foreign
    FOREIGN KEY (appointment_id) REFERENCES appointments (id) ON DELETE CASCADE;
  ALTER TABLE chat_images ADD CONSTRAINT chat_images_uploaded_by_foreign
    FOREIGN KEY (uploaded_by) REFERENCES users (id) ON DELETE CASCADE;
  CREATE INDEX chat_images_appointment_id_created_at_index ON chat_images (appointment_id, created_at);
  CREATE TABLE chat_image_access (
    id bigserial NOT NULL,
    chat_image_id bigint NOT NULL,
    accessed_by bigint NOT NULL,
    accessed_at timestamp(0) without time zone NOT NULL
  );
  ALTER TABLE chat_image_access ADD PRIMARY KEY (id);
  ALTER TABLE chat_image_access ADD CONSTRAINT chat_image_access_chat_image_id_foreign
    FOREIGN KEY (chat_image_id) REFERENCES chat_images (id) ON DELETE CASCADE;
  ALTER TABLE chat_image_access ADD CONSTRAINT chat_image_access_accessed_by_foreign
    FOREIGN KEY (accessed_by) REFERENCES users (id) ON DELETE CASCADE;
  CREATE INDEX chat_image_access_chat_image_id_accessed_at_index ON chat_image_access (chat_image_id, accessed_at);

  INSERT INTO users (id) VALUES (1), (2), (3);
  INSERT INTO appointments (id, patient_id, doctor_id) VALUES (145, 1, 2);
  INSERT INTO chat_images (appointment_id, file_path, filename, uploaded_by, size, mime_type, created_at, updated_at)
    SELECT 145, 'chat_images/appointment_145/' || name, name, 1, 204800, 'image/jpeg', time, time
    FROM (VALUES ('1762379401_YoxmX4UUfE.jpg', timestamp '2025-11-05 21:50:01'),
                 ('1762379402_YoxmX4UUfF.JPG', timestamp '2025-11-05 21:50:02'),
                 ('1762379403_YoxmX4UUfG', timestamp '2025-11-05 21:50:03')) AS image (name, time);
  INSERT INTO chat_image_access (chat_image_id, accessed_by, accessed_at) VALUES (1, 2, '2025-11-05 21:51:00');
`;
