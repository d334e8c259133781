import { childProcesses, commandLine } from './child-processes.js';

/** The decoding processes of an instance of the service; of this process where none is named. */
export function decodingProcesses(servicePid: number = process.pid): number[] {
  return childProcesses(servicePid).filter((pid) => commandLine(pid).includes('image-process.js'));
}
