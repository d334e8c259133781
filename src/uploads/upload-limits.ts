/** The largest picture: the seed's `max:10240`. UPLOAD_MAX_FILE_MIB may allow a larger file, whose picture is not larger. */
export const MAX_FILE_BYTES = 10 * 1024 * 1024;

/** The most bytes that boundaries, part headers and fields may add to the file in `Content-Length`. */
export const MAX_FORM_OVERHEAD_BYTES = 64 * 1024;
